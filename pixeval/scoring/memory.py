"""How much is scored at a time, by the memory that the device has.

By what it has and not by what is free now, so that a command that is given again cuts its batches as before. Where that
is too much after all, the batch is halved (see :mod:`pixeval.scoring.batches`).
"""

import os

BYTES_PER_PIXEL = 800
"""What the hungriest metrics take at their peak: some 65 float32 planes of three channels."""
SHARE = 0.25
"""Of the device's memory; the rest is for encoders, readers and others."""
LEAST_PIXELS = 2**18
MOST_PIXELS = {"cpu": 2**18, "cuda": 2**25, "mps": 2**23}
"""Pixels in one batch, by kind of device. On the CPU larger ones leave the caches and only cost memory: SSIM took four
times as long per image in batches of sixteen images of 256 pixels as in batches of one."""
CHUNK = {"cpu": 16, "cuda": 64, "mps": 32}
"""Images that are read, decoded and handed over together."""


def batch_pixels(device: str) -> int:
    """Pixels in one batch.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    """
    most, memory = MOST_PIXELS[_kind(device)], memory_bytes(device)
    return most if memory is None else max(LEAST_PIXELS, min(most, int(memory * SHARE) // BYTES_PER_PIXEL))


def chunk_images(device: str) -> int:
    """Images in one chunk where the user names no number."""
    return CHUNK[_kind(device)]


def memory_bytes(device: str) -> int | None:
    """Memory of the device; None where that cannot be told."""
    if _kind(device) == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[1])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _kind(device: str) -> str:
    kind = device.partition(":")[0]
    return kind if kind in MOST_PIXELS else "cpu"
