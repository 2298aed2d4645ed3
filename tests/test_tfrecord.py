"""TFRecord shards: against bytes made by hand, and what is said of damage."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from reader.common import tfrecord
from utils.errors import DataError


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of protobuf's wire format."""
    size, length = len(payload), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + payload


def bitwise_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (tfrecord.POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def by_hand() -> bytes:
    """The SequenceExample of one video of two rows, as TensorFlow serializes it."""
    entry = lambda name, value: field(1, field(1, name) + field(2, value))  # noqa: E731
    labels = field(3, field(1, bytes([3, 0xAC, 0x02])))  # Int64List, packed: 3 and 300
    context = entry(b"id", field(1, field(1, b"abcd"))) + entry(b"labels", labels)
    rows = b"".join(field(1, field(1, field(1, row))) for row in (b"\x00\x01\xff", b"\x02\x03\x80"))
    return field(1, context) + field(2, entry(b"rgb", rows))


@pytest.mark.parametrize("size", [0, 1, 63, 1023, 1024, 1025, 4096, 5000, 70_001])
def test_crc_is_that_of_the_bits(size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    assert tfrecord.crc32c(data) == bitwise_crc(data)


def test_crc_has_the_published_check_value():
    assert tfrecord.crc32c(b"123456789") == 0xE3069283
    assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_a_record_made_by_hand():
    context, sequences = tfrecord.parse(by_hand(), "here")
    assert context == {"id": [b"abcd"], "labels": [3, 300]}
    assert sequences == {"rgb": [b"\x00\x01\xff", b"\x02\x03\x80"]}


def test_serialize_is_what_parse_reads():
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    context, sequences = tfrecord.parse(tfrecord.serialize("vidé", [], {"rgb": rows}), "here")
    assert context == {"id": ["vidé".encode()], "labels": []}
    assert sequences == {"rgb": [row.tobytes() for row in rows]}


def test_records_lie_one_after_another(tmp_path):
    file = tmp_path / "a.tfrecord"
    records = [b"", b"x" * 5000, by_hand()]
    tfrecord.write(file, records)
    places = tfrecord.offsets(str(file))
    assert [tfrecord.read(str(file), *place) for place in places] == records


def test_damage_is_named(tmp_path):
    file = tmp_path / "a.tfrecord"
    tfrecord.write(file, [b"first", b"second" * 1000])
    data, path = bytearray(file.read_bytes()), str(file)

    def rewritten(position: int | None = None, end: int | None = None) -> str:
        changed = bytearray(data)
        if position is not None:
            changed[position] ^= 1
        file.write_bytes(changed[:end])
        return path

    places = tfrecord.offsets(path)
    with pytest.raises(DataError, match=r"a\.tfrecord: damaged \(CRC of the record at byte 33\)"):
        tfrecord.read(rewritten(position=40), *places[1])
    with pytest.raises(DataError, match=r"damaged .CRC of the length of record 1"):
        tfrecord.offsets(rewritten(position=21))
    with pytest.raises(DataError, match="no TFRecord file"):
        tfrecord.offsets(rewritten(position=0))
    with pytest.raises(DataError, match="ends within record 1"):
        tfrecord.offsets(rewritten(end=-1))
    with pytest.raises(DataError, match="ends within the head of record 1"):
        tfrecord.offsets(rewritten(end=25))
    with pytest.raises(DataError, match="cannot be read"):
        tfrecord.offsets(str(tmp_path / "absent.tfrecord"))
    with pytest.raises(DataError, match=r"not a tf.train.SequenceExample"):
        tfrecord.parse(struct.pack("<Q", 7), "here")
