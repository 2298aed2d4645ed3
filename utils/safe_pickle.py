"""The one unpickler of the project: numpy arrays and plain containers, nothing else.

An allow list of names is not enough: ``numpy.dtype`` believes the flags, offsets and sizes in a
file, and 200 bytes make numpy follow numbers of the file as object pointers. So what stands behind
each numpy name is ours, and so is BUILD, the opcode that sets a state: C's ``pickle.Unpickler`` has
no hook for it. Not stopped is a file made to use up time or memory.

``index`` reads the same files without their arrays, which stay on disk until each is asked for.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from utils.errors import DataError, UnsafeFileError


def load(path: str | Path, encoding: str = "ASCII") -> object:
    """The value in a pickle file. ``encoding`` is for Python 2's str: "latin1", or "bytes".

    Arrays and scalars are of bool, numbers, text or structures of these. Raises UnsafeFileError,
    naming the global, if the file asks for anything but them and plain containers; DataError if it
    is absent, damaged or no pickle.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return loads(data, str(path), encoding)


def loads(data: bytes, name: str, encoding: str = "ASCII") -> object:
    """As ``load``, from bytes; ``name`` is what errors call them."""
    return _load(_Unpickler(_File(data), encoding=encoding), name)


def index(path: str | Path, encoding: str = "ASCII") -> object:
    """As ``load``, but every array is an ``ArrayInFile``: one pass over the file that skips their bytes.

    A pickle of many records (hundreds of MB) is so opened in a fraction of a second and a few MB.
    """
    try:
        with open(path, "rb") as file:
            return _load(_Indexer(_SkippingFile(file), str(path), encoding), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass
class ArrayInFile:
    """An array of a pickle that ``index`` left in its file. ``shape`` and ``dtype`` are known."""

    path: str
    shape: tuple[int, ...] = (0,)
    dtype: np.dtype | None = None
    is_fortran: bool = False
    raw: Any = None  # bytes, or the _Span where they are

    def read(self) -> np.ndarray:
        """The array. Raises DataError: the file is gone, shorter than it was, or damaged."""
        try:
            raw = self.raw.read(self.path) if isinstance(self.raw, _Span) else self.raw
            dtype, raw = _contents(self.shape, self.dtype, raw)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from error
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: not a readable pickle ({error})") from error
        return np.ndarray(self.shape, dtype, raw, order="F" if self.is_fortran else "C")


def _load(unpickler: _Unpickler, name: str) -> object:
    try:
        return unpickler.load()
    except _Refused as refused:
        what = f"refused to load {str(refused)[:200]!r}"
        only = "only numpy arrays and plain containers are read"
        raise UnsafeFileError(f"{name}: {what}: {only}") from None
    except EOFError as error:
        raise DataError(f"{name}: not a readable pickle (it ends too early)") from error
    except Exception as error:  # on damaged bytes pickle and numpy raise nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(": ")
        raise DataError(f"{name}: not a readable pickle ({reason})") from error


class _Refused(Exception):
    """Says what the file asked for; ``loads`` adds the file's name."""


class _File(io.BytesIO):
    def readline(self) -> bytes:
        if not (line := super().readline()).endswith(b"\n"):
            raise EOFError  # half a name is no other name
        return line


def _ndarray(*_: object) -> None:
    raise _Refused("numpy.ndarray()")  # a file only names it, as first argument of _reconstruct


def _reconstruct(subtype: object, *_: object) -> np.ndarray:
    if subtype is not _ndarray:
        raise _Refused(f"numpy _reconstruct of {getattr(subtype, '__name__', subtype)}")
    return np.empty(0, np.int8)  # BUILD fills it


def _dtype(code: str | bytes, *_: object) -> np.dtype:
    code = _text(code)
    if code.startswith("O"):
        raise _Refused("numpy.dtype of objects")
    if not re.fullmatch(r"[biufcSUV]\d{1,9}", code):
        raise ValueError(f"unknown dtype {code!r}")
    return np.dtype(code, copy=True)  # BUILD changes it


def _scalar(dtype: np.dtype, raw: bytes | str) -> Any:
    return np.ndarray((), *_contents((), dtype, raw)).copy()[()]


def _frombuffer(raw: Any, dtype: np.dtype, shape: tuple, order: str, axes: Any = None) -> Any:
    array = np.ndarray(shape, *_contents(shape, dtype, raw), order="F" if order == "F" else "C")
    return array if axes is None else array.transpose(axes)


def _encode(text: str, codec: str) -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise _Refused(f"_codecs.encode to {codec}")
    return text.encode("latin1")


_PLAIN = (dict, list, tuple, set, frozenset, complex, bytes, bytearray)
_BUILTINS = {kind.__name__: kind for kind in _PLAIN}
_MULTIARRAY = {"_reconstruct": _reconstruct, "scalar": _scalar}
_ALLOWED: dict[str, dict[str, Any]] = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,  # Python 2, and protocols 0 to 2
    "_codecs": {"encode": _encode},
    "collections": {"OrderedDict": OrderedDict},
    "numpy": {"ndarray": _ndarray, "dtype": _dtype},
    "numpy.core.multiarray": _MULTIARRAY,  # numpy 1
    "numpy._core.multiarray": _MULTIARRAY,
    "numpy.core.numeric": {"_frombuffer": _frombuffer},
    "numpy._core.numeric": {"_frombuffer": _frombuffer},
}


class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, {}):
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module][name]

    def persistent_load(self, pid: object) -> None:
        raise _Refused(f"persistent id {pid}")

    def get_extension(self, code: int) -> None:  # the original asks a cache before find_class
        raise _Refused(f"copyreg extension {code}")

    def load_build(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, np.dtype):
            _set_dtype(value, state)
        elif isinstance(value, np.ndarray):
            _set_array(value, state)
        else:
            raise _Refused(f"state of {getattr(value, '__name__', type(value).__name__)}")

    def load_bytearray8(self) -> None:  # the original writes that many zeros first
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch: ClassVar[dict] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _set_array(array: np.ndarray, state: tuple) -> None:
    version, shape, dtype, is_fortran, raw = state
    if version != 1 or array.size:  # a second state would free what slices of the first still use
        raise ValueError("not the state of a new array")
    dtype, raw = _contents(shape, dtype, raw)
    array.__setstate__((1, shape, dtype, bool(is_fortran), raw))


def _set_dtype(dtype: np.dtype, state: tuple) -> None:
    """numpy's constructors check what they are given; flags and sizes in the file are not used."""
    version, order, part, names, fields = state[:5]
    if version not in (3, 4):
        raise ValueError(f"unknown version {version} of a dtype")
    if names:
        form = {"names": [_text(name) for name in names], "itemsize": dtype.itemsize}
        form["formats"] = [_own(fields[name][0]) for name in names]
        form["offsets"] = [fields[name][1] for name in names]
        safe = np.dtype(form)
    elif part:
        safe = np.dtype((_own(part[0]), _shape(part[1])))
    else:
        safe = dtype.newbyteorder(_text(order))
    if (safe.num, safe.itemsize) != (dtype.num, dtype.itemsize):
        raise ValueError(f"the state of a {safe} for a {dtype}")
    dtype.__setstate__(safe.__reduce__()[2])


def _contents(shape: tuple, dtype: np.dtype, raw: bytes | str) -> tuple[np.dtype, bytes]:
    """dtype and bytes of an array, known to fit its shape."""
    dtype, raw = _own(dtype), raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(raw, (bytes, bytearray)) or dtype.subdtype:
        raise TypeError(f"an array of {dtype} from a {type(raw).__name__}")
    if math.prod(_shape(shape)) * dtype.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for an array {shape} of {dtype}")
    return dtype, raw


def _own(dtype: np.dtype) -> np.dtype:
    """A copy that the file cannot change any more ("|": with the byte order it has)."""
    if not isinstance(dtype, np.dtype):
        raise TypeError(f"a {type(dtype).__name__} for a dtype")
    return dtype.newbyteorder("|")


def _shape(value: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(value, tuple) or any(type(n) is not int or n < 0 for n in value):
        raise TypeError(f"{value!r} for a shape")
    if math.prod(n or 1 for n in value) > 2**48:  # (0, 2**62) has no element; numpy fails later
        raise ValueError(f"shape {value} is too large")
    return value


def _text(value: str | bytes) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


# ---- arrays that stay in the file --------------------------------------------------------------

LARGE_BYTES = 1024  # shorter strings are read


class _Span(bytes):
    """Stands, empty, for a string of ``length`` bytes at ``offset`` of a file.

    ``is_latin1``: Python 3 wrote bytes for Python 2 as text, each byte a character, in UTF-8.
    """

    def __new__(cls, offset: int, length: int, is_latin1: bool = False) -> _Span:
        span = super().__new__(cls)
        span.offset, span.length, span.is_latin1 = offset, length, is_latin1
        return span

    def read(self, path: str) -> bytes:
        with open(path, "rb") as file:
            file.seek(self.offset)
            raw = file.read(self.length)
        return raw.decode("utf-8").encode("latin1") if self.is_latin1 else raw


class _SkippingFile:
    """A file whose long strings are passed over."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def read(self, count: int) -> bytes:
        if count < LARGE_BYTES:
            return self.file.read(count)
        span = _Span(self.file.tell(), count)
        self.file.seek(count, io.SEEK_CUR)
        return span

    def readline(self) -> bytes:
        if not (line := self.file.readline()).endswith(b"\n"):
            raise EOFError
        return line


class _Indexer(_Unpickler):
    def __init__(self, file: _SkippingFile, path: str, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return {_reconstruct: self._array, _frombuffer: self._whole_array, _encode: _encode_span}.get(
            found, found
        )

    def _array(self, subtype: object, *_: object) -> ArrayInFile:
        _reconstruct(subtype)
        return ArrayInFile(self.path)  # BUILD fills it

    def _whole_array(self, raw: Any, dtype: np.dtype, shape: tuple, order: str, axes: Any = None) -> Any:
        if axes is not None:
            raise ValueError("an array with permuted axes")
        array = ArrayInFile(self.path)
        _set_array_in_file(array, (1, shape, dtype, order == "F", raw))
        return array

    def load_build(self) -> None:
        if isinstance(self.stack[-2], ArrayInFile):
            state = self.stack.pop()
            _set_array_in_file(self.stack[-1], state)
        else:
            super().load_build()

    def load_frame(self) -> None:  # of protocol 4: a hint how much to read at once
        self.read(8)

    def _load_text(self) -> None:
        length = int.from_bytes(self.read(4), "little")
        self.append(_text_or_span(self.read(length)))

    def _load_text8(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        self.append(_text_or_span(self.read(length)))

    def _load_bytearray(self) -> None:
        raw = self.read(int.from_bytes(self.read(8), "little"))
        self.append(raw if isinstance(raw, _Span) else bytearray(raw))

    dispatch: ClassVar[dict] = {
        **_Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.FRAME[0]: load_frame,
        pickle.BINUNICODE[0]: _load_text,
        pickle.BINUNICODE8[0]: _load_text8,
        pickle.BYTEARRAY8[0]: _load_bytearray,
    }


def _text_or_span(raw: bytes) -> str | _Span:
    return raw if isinstance(raw, _Span) else str(raw, "utf-8", "surrogatepass")


def _encode_span(text: Any, codec: str) -> bytes:
    if not isinstance(text, _Span):
        return _encode(text, codec)
    _encode("", codec)
    return _Span(text.offset, text.length, is_latin1=True)


def _set_array_in_file(array: ArrayInFile, state: tuple) -> None:
    version, shape, dtype, is_fortran, raw = state
    if version != 1 or array.raw is not None:
        raise ValueError("not the state of a new array")
    if not isinstance(raw, _Span):
        _contents(shape, dtype, raw)
    elif not raw.is_latin1 and math.prod(_shape(shape)) * dtype.itemsize != raw.length:
        raise ValueError(f"{raw.length} bytes for an array {shape} of {dtype}")
    array.shape, array.dtype = _shape(shape), _own(dtype)
    array.is_fortran, array.raw = bool(is_fortran), raw
