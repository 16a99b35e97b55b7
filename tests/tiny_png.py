"""PNG files that say they are larger than what is in them."""

import struct
import zlib


def png_that_says(width: int, height: int) -> bytes:
    """Some hundred bytes with a right head and hardly a pixel."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(100)))]
    data = b"\x89PNG\r\n\x1a\n"
    for name, part in [*chunks, (b"IEND", b"")]:
        data += struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
    return data
