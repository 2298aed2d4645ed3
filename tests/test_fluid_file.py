"""utils.fluid_file: variables as Fluid 1.x wrote them, and everything that is none."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from utils import fluid_file
from utils.errors import DataError

CODES = {
    "bool": 0,
    "int16": 1,
    "int32": 2,
    "int64": 3,
    "float16": 4,
    "float32": 5,
    "float64": 6,
    "uint8": 20,
    "int8": 21,
}


def varint(value: int) -> bytes:
    value, out = value % (1 << 64), b""  # a negative int64 takes ten bytes
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def description(code: int, dims: tuple[int, ...], packed: bool = False) -> bytes:
    if packed:
        numbers = b"".join(map(varint, dims))
        return b"\x08" + varint(code) + b"\x12" + varint(len(numbers)) + numbers
    return b"\x08" + varint(code) + b"".join(b"\x10" + varint(dim) for dim in dims)


def file_of(desc: bytes, values: bytes, lod: tuple[bytes, ...] = ()) -> bytes:
    levels = b"".join(struct.pack("<Q", len(level)) + level for level in lod)
    head = struct.pack("<IQ", 0, len(lod)) + levels
    return head + struct.pack("<Ii", 0, len(desc)) + desc + values


def variable(array: np.ndarray, **how: object) -> bytes:
    lod = how.pop("lod", ())
    little = array.astype(array.dtype.newbyteorder("<"))
    return file_of(description(CODES[array.dtype.name], array.shape, **how), little.tobytes(), lod)


def read(data: bytes, folder: Path) -> np.ndarray:
    (folder / "v").write_bytes(data)
    return fluid_file.read_variable(folder / "v")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", CODES)
def test_every_dtype_and_shape_reads(dtype, packed, tmp_path):
    for shape in [(), (1,), (2, 3), (2, 3, 200), (0,), (3, 0, 2), (1,) * 9]:
        array = (np.arange(np.prod(shape, dtype=int)) % 100 - 50).reshape(shape).astype(dtype)
        got = read(variable(array, packed=packed), tmp_path)
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert np.array_equal(got, array)
        assert got.flags.writeable and got.flags.aligned and got.flags.c_contiguous


def test_known_bytes_read(tmp_path):
    """int64 [3], shape [1]: the @LR_DECAY_COUNTER@ of a Fluid 1.8 training run, byte for byte."""
    data = bytes(16) + b"\x04\x00\x00\x00\x08\x03\x10\x01" + b"\x03" + bytes(7)
    got = read(data, tmp_path)
    assert got.dtype == np.int64 and got.tolist() == [3]


def test_the_lod_is_left_out(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    levels = (struct.pack("<3Q", 0, 1, 2), struct.pack("<3Q", 0, 1, 3), b"")
    assert np.array_equal(read(variable(array, lod=levels), tmp_path), array)


VALUES = bytes(24)
SHAPED = description(5, (2, 3))
HUGE = 1 << 62
DAMAGED = {
    "empty": (b"", "version of the variable takes 4 bytes, 0 are left"),
    "text": (b"hello, world, this is text", "version 1819043176 of the variable, expected 0"),
    "pickle": (b"\x80\x02}q\x00." * 9, "version .* of the variable, expected 0"),
    "version of the tensor": (bytes(12) + b"\x01" + bytes(9), "version 1 of the tensor"),
    "more values": (file_of(SHAPED, VALUES + b"\0"), r"float32 \[2, 3\] takes 24 bytes, found 25"),
    "less values": (file_of(SHAPED, VALUES[:-1]), r"float32 \[2, 3\] takes 24 bytes, found 23"),
    "two variables": (file_of(SHAPED, VALUES) * 2, "takes 24 bytes, found 74"),
    "huge": (file_of(description(5, (HUGE, HUGE)), VALUES), "shape"),
    "too large": (file_of(description(5, (1 << 40,)), VALUES), "takes 4398046511104 bytes"),
    "huge and empty": (file_of(description(5, (0, HUGE)), b""), "shape"),
    "negative": (file_of(description(5, (-1, 6)), VALUES), r"shape \[-1, 6\]"),
    "twice negative": (file_of(description(5, (-2, -3)), VALUES), r"shape \[-2, -3\]"),
    "ten dimensions": (file_of(description(5, (1,) * 10), VALUES[:4]), "shape"),
    "1000 huge dimensions": (file_of(description(5, (HUGE,) * 1000), VALUES), "shape"),
    "unknown dtype": (file_of(description(22, (6,)), VALUES), "data type 22 is none of"),
    "negative dtype": (file_of(description(-1, (6,)), VALUES), "data type -1 is none of"),
    "no dtype": (file_of(SHAPED[2:], VALUES), "data type None is none of"),
    "no description": (file_of(b"", VALUES), "data type None is none of"),
    "unknown field": (file_of(SHAPED + b"\x18\x01", VALUES), "unknown tag 24"),
    "wrong kind of field": (file_of(b"\x0a\x01\x05", VALUES), "unknown tag 10"),
    "endless number": (file_of(b"\x08" + b"\xff" * 12, VALUES), "does not end"),
    "cut number": (file_of(SHAPED[:-1] + b"\xff", VALUES), "a number of the description takes 1"),
    "cut shape": (file_of(b"\x08\x05\x12\x09\x02", VALUES), "the shape takes 9 bytes, 1 are left"),
    "negative shape": (file_of(b"\x08\x05\x12" + varint(-1), VALUES), "the shape takes -1 bytes"),
    "negative description": (
        struct.pack("<IQIi", 0, 0, 0, -1) + VALUES,
        "the description takes 4294967295 bytes, 24 are left",
    ),
    "huge LoD": (struct.pack("<IQQ", 0, 1, HUGE) + VALUES, "a LoD level takes"),
    "many LoD levels": (struct.pack("<IQ", 0, 2**64 - 1) + VALUES, "the size of a LoD level"),
}


@pytest.mark.parametrize(("data", "message"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_variable_is_one_line(data, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        read(data, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'v'}: not a Fluid variable (")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < len(str(tmp_path)) + 400


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_anywhere_is_refused(packed, tmp_path):
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    data = variable(array, packed=packed, lod=(struct.pack("<2Q", 0, 2),))
    for size in range(len(data)):
        with pytest.raises(DataError, match="not a Fluid variable"):
            read(data[:size], tmp_path)
    with pytest.raises(DataError, match="takes 12 bytes, found 13"):
        read(data + b"\0", tmp_path)


def test_changed_bytes_give_an_array_or_an_error(tmp_path):
    rng = random.Random(0)
    data = variable(np.arange(6, dtype=np.float32).reshape(2, 3), lod=(bytes(8),))
    for _ in range(300):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] = rng.randrange(256)
        try:
            assert read(bytes(changed), tmp_path).nbytes <= len(data)
        except DataError as error:
            assert len(str(error).splitlines()) == 1


def test_a_folder_reads_by_name_in_order(tmp_path):
    state = {f"fc_{i}.w_0": np.full((2, i + 1), i, np.float32) for i in (2, 0, 1)}
    state["@LR_DECAY_COUNTER@"] = np.array([7])
    for name, array in state.items():
        (tmp_path / name).write_bytes(variable(array))
    (tmp_path / "__model__").write_bytes(b"a program")
    (tmp_path / ".DS_Store").write_bytes(b"a habit of macOS")
    (tmp_path / ".cache").mkdir()
    for path in (tmp_path, str(tmp_path)):
        got = fluid_file.read_folder(path)
        assert list(got) == ["@LR_DECAY_COUNTER@", "fc_0.w_0", "fc_1.w_0", "fc_2.w_0"]
        assert all(np.array_equal(got[name], state[name]) for name in state)


def test_nothing_in_a_folder_is_passed_over(tmp_path):
    (tmp_path / "fc_0.w_0").write_bytes(variable(np.zeros(2)))
    (tmp_path / "readme.txt").write_text("The weights of ...")
    with pytest.raises(DataError, match=r"readme\.txt: not a Fluid variable"):
        fluid_file.read_folder(tmp_path)
    os.replace(tmp_path / "readme.txt", tmp_path / ".readme.txt")
    (tmp_path / "more").mkdir()
    with pytest.raises(DataError, match=r"more: cannot be read \(Is a directory\)"):
        fluid_file.read_folder(tmp_path)


def test_what_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match="holds no variables"):
        fluid_file.read_folder(tmp_path)
    missing = tmp_path / "missing"
    for reader in (fluid_file.read_folder, fluid_file.read_variable):
        with pytest.raises(DataError, match=r"missing: cannot be read \(No such file or dir"):
            reader(missing)
