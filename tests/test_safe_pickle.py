"""utils.safe_pickle: data loads, code is refused and never runs, damage is one line."""

from __future__ import annotations

import copyreg
import os
import pickle
import random
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from utils import safe_pickle
from utils.errors import DataError, UnsafeFileError

_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_SCALAR = np.float32(1).__reduce__()[0]


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def called(module: str, name: str, argument: str) -> bytes:
    return named(module, name) + text(argument) + b"\x85R."


class Made:
    """Pickles as a call of ``made`` with a state: how hostile files are written here."""

    def __init__(self, made: Any, args: tuple, *state: Any) -> None:
        self.parts = (made, args, *state)

    def __reduce__(self) -> tuple:
        return self.parts


def dtype(code: str, *state: Any) -> Made:
    return Made(np.dtype, (code, False, True), *state)


def array(shape: tuple, kind: object, raw: bytes) -> Made:
    return Made(_RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, False, raw))


def fields(offset: int, kind: object, size: int = 8) -> tuple:
    return (3, "|", None, ("a",), {"a": (kind, offset)}, size, 1, 0)


# ---- code ----------------------------------------------------------------------------------------

TOUCH = "touch marker"
OPEN = "open('marker', 'w').close()"
CALLS = [  # of a function that is no data, with what it would run
    ("posix", "system", TOUCH),
    ("os", "system", TOUCH),
    ("os", "popen", TOUCH),
    ("subprocess", "check_output", TOUCH),
    ("builtins", "eval", OPEN),
    ("builtins", "exec", OPEN),
    ("builtins", "open", "marker"),
    ("builtins", "getattr", "x"),
    ("builtins", "__import__", "os"),
    ("__builtin__", "eval", OPEN),
    ("__builtin__", "apply", OPEN),
    ("pickle", "loads", "x"),
    ("marshal", "loads", "x"),
    ("functools", "partial", "x"),
    ("operator", "attrgetter", "x"),
    ("copyreg", "_reconstructor", "x"),
    ("copy_reg", "_reconstructor", "x"),
    ("numpy", "load", "x"),
    ("numpy", "matrix", "x"),
    ("numpy", "fromfile", "x"),
    ("numpy.testing._private.utils", "runstring", OPEN),
    ("numpy.f2py", "compile", "x"),
    ("numpy", "f2py.os.system", TOUCH),
    ("numpy", "dtype.__new__", "f4"),
    ("numpy.core.multiarray", "fromfile", "x"),
    ("builtins", "dict.fromkeys", "x"),
    ("collections", "OrderedDict.__init__", "x"),
    ("collections", "defaultdict", "x"),
    ("paddle", "load", "x"),
    ("paddle.base.core", "LoDTensor", "x"),
    ("torch._utils", "_rebuild_tensor_v2", "x"),
    ("utils.safe_pickle", "_dtype", "f4"),
]


def refused(data: bytes, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is refused in one line that names it and ``what``, and nothing happened."""
    monkeypatch.chdir(tmp_path)
    file = Path("x.pdparams")
    file.write_bytes(data)
    for encoding in ("ASCII", "latin1", "bytes"):
        with pytest.raises(UnsafeFileError) as caught:
            safe_pickle.load(file, encoding)
        message = f"x.pdparams: refused to load {what!r}: only numpy arrays and plain containers"
        assert str(caught.value) == f"{message} are read"
    assert os.listdir() == ["x.pdparams"]


@pytest.mark.parametrize(("module", "name", "argument"), CALLS, ids=lambda part: part[:30])
def test_a_function_is_refused_however_it_is_named(module, name, argument, tmp_path, monkeypatch):
    frame = b"\x80\x04" + text(module) + text(name) + b"\x93"
    for data in (
        called(module, name, argument),  # GLOBAL, REDUCE
        frame + text(argument) + b"\x85R.",  # STACK_GLOBAL
        frame + text(argument) + b"\x85\x81.",  # NEWOBJ
        frame + text(argument) + b"\x85}\x92.",  # NEWOBJ_EX
        b"(" + text(argument) + f"i{module}\n{name}\n.".encode(),  # INST
        b"(" + named(module, name) + text(argument) + b"o.",  # OBJ
        b"]" + called(module, name, argument)[:-1] + b"a.",  # as an item
        named(module, name) + b".",  # not even called
    ):
        refused(data, f"{module}.{name}", tmp_path, monkeypatch)


def test_an_extension_is_refused_even_where_it_is_cached(tmp_path, monkeypatch):
    copyreg.add_extension("posix", "system", 240)
    data = b"\x80\x02\x82\xf0" + text(TOUCH) + b"\x85R."
    try:
        pickle.loads(b"\x80\x02\x82\xf0.")  # another reader fills the cache
        refused(data, "copyreg extension 240", tmp_path, monkeypatch)
    finally:
        copyreg.remove_extension("posix", "system", 240)


@pytest.mark.parametrize("data", [b"Pstorage\n.", text("storage") + b"Q."])
def test_a_persistent_id_is_refused(data, tmp_path, monkeypatch):
    refused(data, "persistent id storage", tmp_path, monkeypatch)


@pytest.mark.parametrize("codec", ["rot13", "hex", "zip", "utf-8", "unicode_escape", "no_such"])
def test_encode_knows_latin1_only(codec, tmp_path, monkeypatch):
    data = named("_codecs", "encode") + text("x") + text(codec) + b"\x86R."
    refused(data, f"_codecs.encode to {codec}", tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("module", "name", "what"),
    [
        ("_codecs", "encode", "_encode"),
        ("numpy", "dtype", "_dtype"),
        ("numpy.core.multiarray", "scalar", "_scalar"),
        ("collections", "OrderedDict", "OrderedDict"),
        ("builtins", "set", "set"),
    ],
)
def test_no_state_is_set_on_what_a_name_stands_for(module, name, what, tmp_path, monkeypatch):
    attribute = b"}" + text("__defaults__") + b"Ns"
    for state in (attribute, b"N" + attribute + b"\x86"):  # its __dict__, its slots
        refused(named(module, name) + state + b"b.", f"state of {what}", tmp_path, monkeypatch)


# ---- hostile arrays: plain numpy reads or writes foreign memory with most of these ---------------

ADDRESS = b"A" * 8
REFUSED_ARRAYS = {
    "subclass": (Made(_RECONSTRUCT, (np.matrix, (0,), b"b")), f"{np.matrix.__module__}.matrix"),
    "no array": (Made(_RECONSTRUCT, (dict, (0,), b"b")), "numpy _reconstruct of dict"),
    "memory": (Made(np.ndarray, ((9,), "u1")), "numpy.ndarray()"),
    "objects": (array((1,), dtype("O8"), ADDRESS), "numpy.dtype of objects"),
    "honest objects": (np.array([{}, None]), "numpy.dtype of objects"),
    "object flags": (
        array((1,), dtype("O8", (3, "|", None, None, None, -1, -1, 0)), ADDRESS),
        "numpy.dtype of objects",
    ),
    "object field": (
        array((1,), dtype("V8", fields(0, dtype("O8"))), ADDRESS),
        "numpy.dtype of objects",
    ),
    "object scalar": (Made(_SCALAR, (dtype("O8"), ADDRESS)), "numpy.dtype of objects"),
}


@pytest.mark.parametrize(("value", "what"), REFUSED_ARRAYS.values(), ids=REFUSED_ARRAYS)
def test_objects_in_arrays_are_refused(value, what, tmp_path, monkeypatch):
    for protocol in (2, 4):
        refused(pickle.dumps(value, protocol), what, tmp_path, monkeypatch)


DAMAGED_ARRAYS = {
    "field beyond the end": array((1,), dtype("V8", fields(10**9, dtype("i8"))), ADDRESS),
    "field before the start": array((1,), dtype("V8", fields(-8, dtype("i8"))), ADDRESS),
    "field without dtype": array((1,), dtype("V8", fields(0, "O")), ADDRESS),
    "numbers with fields": array((1,), dtype("i8", fields(0, dtype("i4"))), ADDRESS),
    "huge part": dtype("V8", (3, "|", (dtype("f4"), (2**40,)), None, None, 8, 4, 0)),
    "part is no shape": dtype("V8", (3, "|", (dtype("i4"), "O"), None, None, 8, 4, 0)),
    "part is a number": dtype("V8", (3, "|", (dtype("f4"), 2), None, None, 8, 4, 0)),
    "array of parts": array((1,), dtype("V8", (3, "|", (dtype("f4"), (2,)), None, None, 8, 4, 0)), ADDRESS),
    "part of no extent": dtype("V4", (3, "<", (dtype("f4"), ()), None, None, -1, 4, 0)),
    "unknown version": dtype("f4", (9, "<", None, None, None, -1, -1, 0)),
    "unknown order": dtype("f4", (3, "x", None, None, None, -1, -1, 0)),
    "unknown dtype": dtype("f4,f4"),
    "state is no tuple": dtype("f4", 3),
    "too few bytes": array((3,), dtype("i8"), ADDRESS),
    "too many bytes": array((), dtype("i4"), ADDRESS),
    "negative extents": array((-1, -1), dtype("i8"), ADDRESS),
    "extent is no number": array((1.0,), dtype("i8"), ADDRESS),
    "2**63 bytes": array((2**60,), dtype("i8"), ADDRESS),
    "empty and yet too large": array((0, 2**62, 2**62), dtype("i8"), b""),
    "1000 dimensions": array((1,) * 1000, dtype("i8"), ADDRESS),
    "no bytes at all": array((1,), dtype("i8"), [65] * 8),
    "no dtype at all": array((1,), "i8", ADDRESS),
    "short scalar": Made(_SCALAR, (dtype("f8"), b"1234")),
}


@pytest.mark.parametrize("value", DAMAGED_ARRAYS.values(), ids=DAMAGED_ARRAYS)
def test_arrays_that_do_not_fit_their_bytes_are_refused(value):
    for protocol in (2, 4):
        with pytest.raises(DataError, match=r"^x\.pkl: not a readable pickle"):
            safe_pickle.loads(pickle.dumps(value, protocol), "x.pkl")


def test_flags_and_sizes_in_a_file_are_not_believed():
    for kind, state, raw in (
        ("i8", (3, "<", None, None, None, 999, 1, 63), ADDRESS),
        ("S8", (3, "|", None, None, None, -1000, 1, 255), ADDRESS),
        ("V8", fields(0, dtype("i8"), size=1), ADDRESS),
    ):
        got = safe_pickle.loads(pickle.dumps(array((1,), dtype(kind, state), raw), 2), "x")
        honest = np.dtype([("a", "i8")] if kind == "V8" else kind)
        assert (got.dtype, got.tobytes()) == (honest, raw)
        assert got.dtype.flags == honest.flags


# Opcodes of a new array, of its state (2 x 4 bytes), and of a dtype that is memo 0.
_NEW = named("numpy.core.multiarray", "_reconstruct") + named("numpy", "ndarray")
_NEW += b"K\x00\x85C\x01b\x87R"
_U1 = named("numpy", "dtype") + text("u1") + b"\x85R"
_STATE = b"(K\x01K\x02K\x04\x86" + _U1 + b"\x89C\x08ABCDEFGHtb"
_V8 = named("numpy", "dtype") + text("V8") + b"\x85Rq\x00"


def test_an_array_is_filled_once():
    """tuple() gives its rows, in memory that a second state would give back."""
    data = b"\x80\x03" + _NEW + b"q\x00" + _STATE + named("builtins", "tuple") + b"h\x00\x85R"
    assert [row.tobytes() for row in safe_pickle.loads(data + b".", "x")] == [b"ABCD", b"EFGH"]
    with pytest.raises(DataError, match="not the state of a new array"):
        safe_pickle.loads(data + b"h\x00" + _STATE + b"\x86.", "x")


def test_no_array_lies_in_the_memory_of_another():
    arguments = b"(" + _NEW + _STATE + _U1 + b"K\x08\x85" + text("C") + b"t"
    with pytest.raises(DataError, match="from a ndarray"):
        safe_pickle.loads(named("numpy.core.numeric", "_frombuffer") + arguments + b"R.", "x")


def test_a_dtype_in_use_does_not_change():
    """Fields that a dtype gets later are not those of an array that has it, nor its own fields."""
    made = _NEW + b"(K\x01K\x01\x85h\x00\x89C\x08ABCDEFGHtb"
    state = b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + text("a") + b"h\x00K\x00\x86s"
    state += b"K\x08K\x01K\x00t"
    later, values = safe_pickle.loads(b"(" + _V8 + made + b"h\x00" + state + b"b0t.", "x")
    assert later == np.dtype([("a", "V8")])
    assert values.dtype == np.dtype("V8")


# ---- data ----------------------------------------------------------------------------------------


def same(got: Any, expected: Any) -> bool:
    if type(got) is not type(expected):
        return False
    if isinstance(got, np.ndarray):
        layouts = [(a.dtype, a.shape, a.strides, a.flags.writeable) for a in (got, expected)]
        return layouts[0] == layouts[1] and got.tobytes() == expected.tobytes()
    if isinstance(got, np.void):
        return bool(got == expected) and got.flags.writeable == expected.flags.writeable
    if isinstance(got, dict):
        return list(got) == list(expected) and all(same(got[key], expected[key]) for key in got)
    if isinstance(got, (list, tuple)):
        return len(got) == len(expected) and all(map(same, got, expected))
    return bool(got == expected)


_CUBE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
_GAPS = np.dtype({"names": ["a"], "formats": ["i2"], "offsets": [3], "itemsize": 9})
_KINDS = (np.float32, np.float64, np.int32, np.uint8, np.bool_, np.str_)
_BOXES = np.zeros(3, [("name", "S4"), ("box", "<f4", (2, 2)), ("end", [("x", ">i2"), ("y", "?")])])
DATA = {
    "plain": {"a": [1, -(2**70), 1.5, True, None], 2: ("ü", b"\xff\x00", b"", ""), (1, "b"): {}},
    "containers": [{1, 2}, frozenset("ab"), OrderedDict(b=1, a=[2]), bytearray(b"\x80"), 1 + 2j],
    "empty containers": [set(), frozenset(), OrderedDict(), bytearray(), (), [], {}],
    "state": {"w": _CUBE, "b": np.zeros(0, np.float16), "@LR_DECAY_COUNTER@": np.array([7])},
    "fortran": np.asfortranarray(_CUBE),
    "transposed": _CUBE.transpose(1, 0, 2),
    "strided": _CUBE[:, ::2],
    "read only": np.frombuffer(b"12345678", np.int32),
    "big-endian": _CUBE.astype(">f4"),
    "0-d": np.array(3.5),
    "bool": np.array([True, False]),
    "complex": np.array([1j], np.complex64),
    "large": np.arange(5000, dtype=np.int64),
    "text": np.array(["a", "bcü"]),
    "bytes": np.array([b"a", b"bcd"]),
    "structure": _BOXES,
    "gaps": np.zeros(2, _GAPS),
    "dtype": [np.dtype("f4"), np.dtype(">i2"), _BOXES.dtype],
    "scalars": [kind(1) for kind in _KINDS],
    "other scalars": [np.array(1.5, ">f8")[()], np.bytes_(b"a"), np.str_(""), _BOXES[0]],
    "shared": [_CUBE] * 3,
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", DATA.values(), ids=DATA)
def test_data_loads_as_with_pickle(value, protocol):
    data = pickle.dumps(value, protocol)
    expected = pickle.loads(data)
    assert same(safe_pickle.loads(data, "x"), expected)
    if protocol < 4:  # the modules of numpy 1 and of numpy 2
        new = data.replace(b"numpy.core.", b"numpy._core.")
        for other in (new, new.replace(b"numpy._core.", b"numpy.core.")):
            assert same(safe_pickle.loads(other, "x"), expected)


def test_one_array_stays_one():
    first, second = safe_pickle.loads(pickle.dumps([_CUBE] * 2, 2), "x")
    assert first is second


def test_the_files_of_paddle_load(tmp_path):
    network = paddle.nn.Linear(2, 3)
    rate = paddle.optimizer.lr.StepDecay(0.1, 2)
    adam = paddle.optimizer.Adam(rate, parameters=network.parameters())
    network(paddle.ones([1, 2])).sum().backward()
    adam.step()
    tensors = [network.weight, {"bias": network.bias}]
    for state in (network.state_dict(), adam.state_dict(), tensors):
        paddle.save(state, str(tmp_path / "x.pdparams"))
        with open(tmp_path / "x.pdparams", "rb") as file:
            assert same(safe_pickle.load(tmp_path / "x.pdparams"), pickle.load(file))


def python2_record(raw: bytes) -> bytes:
    """What cPickle made of {'video': 'vü', 'feature': an array of uint8, 'label': [3L]}."""
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87R"
    kind += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"K" + bytes([len(raw)]) + b"\x85"
    values = b"T" + struct.pack("<I", len(raw)) + raw
    array += b"(K\x01" + shape + kind + b"\x89" + values + b"tb"
    items = b"U\x05videoq\x02U\x03v\xc3\xbcU\x07feature" + array + b"U\x05label]\x8a\x01\x03a"
    return b"\x80\x02}q\x01(" + items + b"u."


def test_python_2_wrote_str_and_the_caller_says_what_it_is():
    raw = bytes(range(200, 256))
    feature = np.frombuffer(raw, np.uint8).copy()
    data = python2_record(raw)
    expected = {b"video": b"v\xc3\xbc", b"feature": feature, b"label": [3]}
    assert same(safe_pickle.loads(data, "x", encoding="bytes"), expected)
    expected = {"video": "v\xc3\xbc", "feature": feature, "label": [3]}
    assert same(safe_pickle.loads(data, "x", encoding="latin1"), expected)
    with pytest.raises(DataError, match="'ascii' codec can't decode byte"):
        safe_pickle.loads(data, "x")


def test_python_2_wrote_lines_with_protocol_0():
    data = b"(dp1\nS'scores'\np2\n(lp3\n(lp4\nF0.5\naI2\naas."
    assert safe_pickle.loads(data, "x", encoding="bytes") == {b"scores": [[0.5, 2]]}


# ---- damage --------------------------------------------------------------------------------------


_SOME = {"a": _CUBE[0], "b": [1.5, "ü", b"\xff"], "c": np.float32(2), "d": {3}}
SMALL = {f"protocol {protocol}": pickle.dumps(_SOME, protocol) for protocol in range(6)}
SMALL["Python 2"] = python2_record(bytes(range(200, 216)))


def assert_one_line(error: DataError) -> None:
    assert str(error).startswith("x.pkl: ")
    assert len(str(error)) < 400
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("data", SMALL.values(), ids=SMALL)
def test_a_file_cut_anywhere_is_one_line(data):
    for size in range(len(data)):
        with pytest.raises(DataError, match="not a readable pickle") as caught:
            safe_pickle.loads(data[:size], "x.pkl", encoding="latin1")
        assert_one_line(caught.value)


@pytest.mark.parametrize("data", SMALL.values(), ids=SMALL)
def test_changed_bytes_give_a_value_or_one_line(data):
    rng = random.Random(0)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        try:
            repr(safe_pickle.loads(bytes(changed), "x.pkl", encoding="latin1"))
        except DataError as error:
            assert_one_line(error)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, world\n",
        b"\x89HDF\r\n\x1a\n",
        b"\x00" * 100,
        b"PK\x03\x04",
        b".",
        b"\x80\x09N.",  # a protocol to come
        b"(" * 5000,
        b"h\x07.",  # nothing was put there
        b"Nr\xff\xff\xff\x7f",  # put at 2**31: C's unpickler takes 32 GB for that
        b"\x8e" + b"\xff" * 8,  # bytes
        b"\x96" + b"\xff" * 8,  # a bytearray
        b"\x8b\xff\xff\xff\xff.",  # an int of -1 bytes
        b"}]Ns.",  # a list as a key
        b"Ffloat\n.",
        b"I" + b"9" * 5000 + b"\n.",
        b"V\\uZZZZ\n.",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_pickle_is_one_line(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.pkl").write_bytes(data)
    with pytest.raises(DataError, match="not a readable pickle") as caught:
        safe_pickle.load("x.pkl")
    assert_one_line(caught.value)
    assert not isinstance(caught.value, UnsafeFileError)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"x.pkl: cannot be read \(No such file or directory\)"):
        safe_pickle.load(tmp_path / "x.pkl")
    with pytest.raises(DataError, match="cannot be read"):
        safe_pickle.load(str(tmp_path))


def test_a_file_that_ends_too_early_says_so():
    for data in (b"", b"]", b"cnumpy.core.multi", b"cnumpy\nndar"):
        with pytest.raises(DataError, match=r"^x: not a readable pickle \(it ends too early\)$"):
            safe_pickle.loads(data, "x")


def test_a_long_name_with_line_ends_is_one_line():
    with pytest.raises(UnsafeFileError) as caught:
        safe_pickle.loads(b"\x80\x04" + text("os") + text("x\ny" * 1000) + b"\x93.", "x.pkl")
    assert_one_line(caught.value)
