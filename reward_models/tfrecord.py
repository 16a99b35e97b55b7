"""Files of TensorFlow records without TensorFlow: the framing with its checksums, and ``tf.train.Example``.

A record is its length (8 bytes), a checksum of those, the data, and a checksum of the data (4 bytes each, little
endian). The checksum is CRC-32C, rotated right by 15 and offset (tensorflow/core/lib/io/record_writer.h).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pixeval.errors import InputError

OFFSET = 0xA282EAD8
LFS = b"version https://git-lfs"
Feature = list[bytes] | list[float] | list[int]


class DamagedRecord(ValueError):
    """A record that cannot be read; says why."""


def read_records(path: Path, problems: list[str]) -> Iterator[bytes]:
    """The data of every whole record; what is wrong with the others is added to ``problems``, one line each.

    A record with damaged data is left out; after a damaged length nothing more can be found.

    Raises:
        InputError: no such file, or one that Git LFS has not fetched.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    with file:
        size, number = path.stat().st_size, 0
        if file.read(len(LFS)) == LFS:
            raise InputError(f"{path} is a pointer of Git LFS, not the data; fetch it with 'git lfs pull'")
        file.seek(0)
        while (start := file.tell()) < size:
            head = file.read(12)
            if len(head) < 12 or masked_crc(head[:8]) != struct.unpack("<I", head[8:])[0]:
                problems.append(f"{path.name}: damaged at byte {start}, after {number} records; the rest is left out")
                return
            length = struct.unpack("<Q", head[:8])[0]
            if start + 12 + length + 4 > size:
                problems.append(f"{path.name}: ends within record {number}")
                return
            data, checksum = file.read(length), file.read(4)
            if masked_crc(data) == struct.unpack("<I", checksum)[0]:
                yield data
            else:
                problems.append(f"{path.name}: record {number} is damaged and left out")
            number += 1


def masked_crc(data: bytes) -> int:
    """CRC-32C (polynomial 0x1EDC6F41, reflected) as these files store it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + OFFSET) & 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    rows = []
    for row in range(256):
        for _ in range(8):
            row = row >> 1 ^ (0x82F63B78 if row & 1 else 0)
        rows.append(row)
    return tuple(rows)


_TABLE = _table()


def parse_example(data: bytes) -> dict[str, Feature]:
    """The features of a serialised ``tf.train.Example`` by name.

    Raises:
        DamagedRecord: it is none.
    """
    found: dict[str, Feature] = {}
    for features in _parts(data, 1):
        for entry in _parts(features, 1):
            name, values = _parts(entry, 1), _parts(entry, 2)
            try:
                found[name[-1].decode()] = _feature(values[-1])
            except (IndexError, UnicodeDecodeError) as error:
                raise DamagedRecord("a feature without name or value") from error
    return found


def _feature(data: bytes) -> Feature:
    for kind, value in _fields(data):
        if kind == 1 and isinstance(value, bytes):
            return list(_parts(value, 1))
        if kind == 2 and isinstance(value, bytes):
            # floats lie packed in one field, or each in its own
            packed = b"".join(v if isinstance(v, bytes) else struct.pack("<I", v) for n, v in _fields(value) if n == 1)
            if len(packed) % 4:
                raise DamagedRecord("a list of floats that ends within one")
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
        if kind == 3 and isinstance(value, bytes):
            lists = [[v] if isinstance(v, int) else _packed(v) for number, v in _fields(value) if number == 1]
            return [v - (1 << 64) if v >= 1 << 63 else v for part in lists for v in part]
    return []


def _parts(data: bytes, wanted: int) -> list[bytes]:
    return [value for number, value in _fields(data) if number == wanted and isinstance(value, bytes)]


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protocol buffer: bytes, or an integer for the kinds of fixed size."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise DamagedRecord(f"a field of the unknown kind {kind}")
        if at + size > len(data):
            raise DamagedRecord("a field that is longer than the record")
        part, at = data[at : at + size], at + size
        yield number, part if kind == 2 else int.from_bytes(part, "little")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise DamagedRecord("a number that does not end")


def _packed(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found
