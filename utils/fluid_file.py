"""Fluid 1.x's variables on disk, one file each: save_vars, save_params, save_persistables.

A file is: uint32 version; uint64 number of LoD levels, each uint64 size + data; uint32 version of
the tensor; int32 size of a protobuf TensorDesc; TensorDesc; the values. All is little-endian.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from utils.errors import DataError

# TensorDesc.data_type, an enum of framework.proto
_DTYPES = {0: "?", 1: "<i2", 2: "<i4", 3: "<i8", 4: "<f2", 5: "<f4", 6: "<f8", 20: "u1", 21: "i1"}


def read_folder(path: str | Path) -> dict[str, np.ndarray]:
    """The variables of a folder by name, which is the file's, in sorted order.

    Hidden files and ``__model__``, the program, are left out. Raises DataError if there is no
    variable, or anything else that is not one.
    """
    folder = Path(path)
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    variables = {file.name: read_variable(file) for file in files if file.name != "__model__"}
    if not variables:
        raise DataError(f"{folder}: holds no variables")
    return variables


def read_variable(path: str | Path) -> np.ndarray:
    """The array in a file, of the dtype it was saved with; its LoD, if any, is left out.

    Raises DataError if the file cannot be read, or is not exactly one variable.
    """
    try:
        data = _Bytes(path, Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    data.version("variable")
    for _ in range(data.integer(8, "the number of LoD levels")):
        data.take(data.integer(8, "the size of a LoD level"), "a LoD level")
    data.version("tensor")
    size = data.integer(4, "the size of the description")
    dtype, dims = _describe(_Bytes(path, data.take(size, "the description")))
    expected, found = math.prod(dims) * dtype.itemsize, len(data.rest)
    if expected != found:
        raise data.error(f"{dtype.name} {dims} takes {expected} bytes, found {found}")
    # A copy: it can be written to, is aligned, and lets go of the file's bytes.
    return np.ndarray(dims, dtype, data.rest).astype(dtype.newbyteorder("="))


def _describe(desc: _Bytes) -> tuple[np.dtype, list[int]]:
    """dtype and shape from a TensorDesc: field 1 is data_type, 2 is dims, packed or one by one."""
    code, dims = None, []
    while desc.rest:
        tag = desc.varint()
        if tag == 0x08:
            code = desc.varint()
        elif tag == 0x10:
            dims.append(desc.varint())
        elif tag == 0x12:
            packed = _Bytes(desc.path, desc.take(desc.varint(), "the shape"))
            while packed.rest:
                dims.append(packed.varint())
        else:
            raise desc.error(f"unknown tag {tag} in the description")
    if code not in _DTYPES:
        raise desc.error(f"data type {code} is none of {sorted(_DTYPES)}")
    if len(dims) > 9 or min(dims, default=0) < 0 or math.prod(n or 1 for n in dims) > 2**48:
        raise desc.error(f"shape {dims[:10]}")
    return np.dtype(_DTYPES[code]), dims


class _Bytes:
    """What is left to read of a file, or of a part of one; every size is checked before use."""

    def __init__(self, path: str | Path, data: bytes) -> None:
        self.path, self.rest = path, memoryview(data)

    def error(self, what: str) -> DataError:
        return DataError(f"{self.path}: not a Fluid variable ({what})")

    def take(self, size: int, what: str) -> memoryview:
        if not 0 <= size <= len(self.rest):
            raise self.error(f"{what} takes {size} bytes, {len(self.rest)} are left")
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def integer(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def version(self, of: str) -> None:
        if (version := self.integer(4, f"the version of the {of}")) != 0:
            raise self.error(f"version {version} of the {of}, expected 0")

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.integer(1, "a number of the description")
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value - (1 << 64) if value >= 1 << 63 else value  # int64
        raise self.error("a number of the description does not end")
