"""The bundled data: captioned 128 px icons on white, with a held-out split by caption."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

ICONS = Path(__file__).parent / "data" / "icons.parquet"


@dataclass(frozen=True)
class Icons:
    """Captions and images in the same order; images are uint8, N x 128 x 128 x 3, RGB."""

    codes: list[str]
    captions: list[str]
    images: np.ndarray


def load_icons(split: str, path: Path = ICONS) -> Icons:
    """Read one split, ``train`` or ``heldout``, into memory (49 kB an icon)."""
    rows = [row for row in pq.read_table(path).to_pylist() if row["split"] == split]
    if not rows:
        raise ValueError(f"{path} has no split {split!r}; use 'train' or 'heldout'")
    images = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows]
    return Icons([row["code"] for row in rows], [row["caption"] for row in rows], np.stack(images))


def export_icons(folder: Path, split: str = "train", every: int = 4) -> Path:
    """Write every n-th icon of a split as PNG, as real images to compare generated ones with; returns ``folder``."""
    icons = load_icons(split)
    folder.mkdir(parents=True, exist_ok=True)
    for code, image in list(zip(icons.codes, icons.images, strict=True))[::every]:
        target = folder / f"{code}.png"
        if not target.exists():
            partial = folder / f".{code}.partial"
            Image.fromarray(image).save(partial, "PNG")
            partial.replace(target)
    return folder
