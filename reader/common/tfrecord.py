"""TFRecord files of ``tf.train.SequenceExample`` without TensorFlow: read, checked by CRC, and written.

A file is records one after another: length (8 bytes, little endian), CRC of the length (4), data, CRC of
the data (4). The CRCs are CRC-32C, masked (https://www.tensorflow.org/tutorials/load_data/tfrecord).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.files import write_atomic

HEAD_BYTES, FOOT_BYTES = 12, 4


# ---- records ---------------------------------------------------------------------------------------


def offsets(path: str) -> list[tuple[int, int]]:
    """``(offset, bytes)`` of the data of every record; only the heads are read.

    Raises DataError: no such file, a head whose CRC is wrong, or a record that the file's end cuts off.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            return list(_walk(file, size, path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _walk(file: Any, size: int, path: str) -> Iterable[tuple[int, int]]:
    position, number = 0, 0
    while position < size:
        file.seek(position)
        head = file.read(HEAD_BYTES)
        if len(head) < HEAD_BYTES:
            raise DataError(f"{path}: ends within the head of record {number}")
        length, crc = struct.unpack("<QI", head)
        if masked_crc(head[:8]) != crc:
            what = "no TFRecord file" if number == 0 else "damaged"
            raise DataError(f"{path}: {what} (CRC of the length of record {number})")
        start = position + HEAD_BYTES
        position = start + length + FOOT_BYTES
        if position > size:
            raise DataError(f"{path}: ends within record {number}")
        yield start, length
        number += 1


def read(path: str, offset: int, length: int) -> bytes:
    """The data of one record. Raises DataError: the file cannot be read, or the CRC is wrong."""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(length + FOOT_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    data, foot = data[:length], data[length:]
    if len(foot) < FOOT_BYTES or struct.unpack("<I", foot)[0] != masked_crc(data):
        raise DataError(f"{path}: damaged (CRC of the record at byte {offset})")
    return data


def write(path: str | Path, records: Iterable[bytes]) -> None:
    """Write ``records`` as one file, whole or not at all. Raises OutputError."""
    parts = []
    for data in records:
        head = struct.pack("<Q", len(data))
        parts += [head, struct.pack("<I", masked_crc(head)), data, struct.pack("<I", masked_crc(data))]
    write_atomic(path, b"".join(parts))


# ---- CRC-32C ---------------------------------------------------------------------------------------

POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
LANE_BYTES = 256


def masked_crc(data: bytes) -> int:
    """CRC-32C as TFRecord stores it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720).

    Long data is cut into lanes whose CRCs numpy computes side by side: a CRC is linear, so they are put
    together by what follows each lane, as if it were zeros. About 1 ms for a record of YouTube-8M.
    """
    if len(data) < 1024:
        table, crc = _byte_table(), 0xFFFFFFFF
        for byte in data:
            crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF
    lanes = 1 << (-(-len(data) // LANE_BYTES) - 1).bit_length()  # a power of two
    padded = np.zeros(lanes * LANE_BYTES, np.uint8)  # zeros before the data do not change a CRC that
    padded[-len(data) :] = np.frombuffer(data, np.uint8)  # begins with 0, and
    padded[padded.size - len(data) :][:4] ^= 0xFF  # to begin with ones is to flip the first 32 bits
    words = np.ascontiguousarray(padded.view("<u4").reshape(lanes, -1).T)  # (words of a lane, lanes)
    crc = np.zeros(lanes, "<u4")
    for word in words:
        crc = _followed(crc ^ word, 4)
    covered = LANE_BYTES
    while crc.size > 1:
        crc = _followed(crc[0::2], covered) ^ crc[1::2]
        covered *= 2
    return int(crc[0]) ^ 0xFFFFFFFF


@cache
def _byte_table() -> list[int]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ (table & 1) * np.uint32(POLYNOMIAL)
    return table.tolist()


def _followed(crc: np.ndarray, num_bytes: int) -> np.ndarray:
    """Each CRC after so many (a power of two) zero bytes more."""
    low, high = _tables(num_bytes)
    halves = np.ascontiguousarray(crc).view("<u2").reshape(-1, 2)
    return low.take(halves[:, 0]) ^ high.take(halves[:, 1])


@cache
def _tables(num_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """What ``_followed`` makes of every lower and of every upper half of a CRC."""
    halves, zeros = np.arange(1 << 16, dtype="<u4"), _after_zeros(num_bytes)
    return _apply(zeros, halves), _apply(zeros, halves << np.uint32(16))


@cache
def _after_zeros(num_bytes: int) -> np.ndarray:
    """What each of the 32 bits of a CRC becomes after so many (a power of two) zero bytes."""
    columns = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(8):
        columns = (columns >> 1) ^ (columns & 1) * np.uint32(POLYNOMIAL)
    for _ in range(num_bytes.bit_length() - 1):
        columns = _apply(columns, columns)
    return columns


def _apply(columns: np.ndarray, crc: np.ndarray) -> np.ndarray:
    """The product of a 32 x 32 matrix of bits, given by its columns, with each of ``crc``."""
    product = np.zeros_like(crc)
    for bit in range(32):
        product ^= columns[bit] * (crc >> np.uint32(bit) & 1)
    return product


# ---- tf.train.SequenceExample ----------------------------------------------------------------------


@cache
def _sequence_example() -> type:
    """The message class; protobuf, which Paddle needs itself, makes it from this description."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="zoo/example.proto", package="zoo", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, Any, bool]) -> Any:
        """Fields are (name, kind or message, repeated), numbered from 1."""
        described = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            added = described.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".zoo.{kind}"
            else:
                added.type = kind
        return described

    def map_of(name: str, field: str, kind: str) -> None:
        """A message of one field, a map from text to messages."""
        owner = message(name, (field, f"{name}.Entry", True))
        owner.field[0].type_name = f".zoo.{name}.{field.title().replace('_', '')}Entry"
        entry = owner.nested_type.add(name=f"{field.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_STRING)
        value = entry.field.add(name="value", number=2, label=kinds.LABEL_OPTIONAL)
        value.type, value.type_name = kinds.TYPE_MESSAGE, f".zoo.{kind}"

    message("BytesList", ("value", kinds.TYPE_BYTES, True))
    message("FloatList", ("value", kinds.TYPE_FLOAT, True))
    message("Int64List", ("value", kinds.TYPE_INT64, True))
    message(
        "Feature",
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    )
    map_of("Features", "feature", "Feature")
    message("FeatureList", ("feature", "Feature", True))
    map_of("FeatureLists", "feature_list", "FeatureList")
    message("SequenceExample", ("context", "Features", False), ("feature_lists", "FeatureLists", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("zoo.SequenceExample"))


def parse(data: bytes, where: str) -> tuple[dict[str, list], dict[str, list[bytes]]]:
    """A record as ``(context, sequences)``: values by name, and of each sequence a value a step.

    A ``tf.train.Example`` has the same layout without sequences. Raises DataError, with ``where``.
    """
    from google.protobuf.message import DecodeError

    try:
        example = _sequence_example().FromString(data)
    except DecodeError as error:
        raise DataError(f"{where}: not a tf.train.SequenceExample ({error})") from error
    context = {}
    for name, feature in example.context.feature.items():
        lists = (feature.bytes_list, feature.float_list, feature.int64_list)
        context[name] = next((list(values.value) for values in lists if values.value), [])
    sequences = {}
    for name, steps in example.feature_lists.feature_list.items():
        sequences[name] = [value for step in steps.feature for value in step.bytes_list.value]
    return context, sequences


def serialize(video: str, labels: Sequence[int], sequences: dict[str, np.ndarray]) -> bytes:
    """A record of YouTube-8M at frame level: uint8 ``sequences`` (T, D) by name."""
    example = _sequence_example()()
    example.context.feature["id"].bytes_list.value.append(video.encode("utf-8"))
    example.context.feature["labels"].int64_list.value.extend(labels)
    for name, rows in sequences.items():
        steps = example.feature_lists.feature_list[name].feature
        for row in rows:
            steps.add().bytes_list.value.append(row.tobytes())
    return example.SerializeToString()
