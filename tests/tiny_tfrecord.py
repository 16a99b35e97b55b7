"""TensorFlow records written by hand, byte by byte."""

import io
import struct
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

SCORES = ("aesthetics_score", "artifact_score", "misalignment_score", "overall_score")


def crc32c(data: bytes) -> int:
    """Bit by bit, as the definition has it: polynomial 0x1EDC6F41 with all bits reversed."""
    register = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            low = (register ^ byte >> bit) & 1
            register = register >> 1 ^ (0x82F63B78 if low else 0)
    return register ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(name: str, value: bytes | float | Sequence[int]) -> bytes:
    """One entry of the map of features; integers lie unpacked and floats packed, as either may."""
    if isinstance(value, bytes):
        inner = field(1, field(1, value))
    elif isinstance(value, float):
        inner = field(2, field(1, struct.pack("<f", value)))
    else:
        inner = field(3, b"".join(varint(1 << 3) + varint(item & 2**64 - 1) for item in value))
    return field(1, field(1, name.encode()) + field(2, inner))


def example(features: Mapping[str, bytes | float | Sequence[int]]) -> bytes:
    return field(1, b"".join(feature(name, value) for name, value in features.items()))


def png(grey: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def rich_example(filename: str, artifacts: np.ndarray, score: float) -> bytes:
    """One of RichHF-18K."""
    features: dict[str, bytes | float | Sequence[int]] = dict.fromkeys(SCORES, 0.5)
    features |= {"artifact_score": score, "filename": filename.encode(), "artifact_map": png(artifacts)}
    features |= {"misalignment_map": png(0 * artifacts), "prompt_misalignment_label": b"1 0 1"}
    return example(features)
