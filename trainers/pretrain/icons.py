"""Build the bundled data set of captioned icons from the Fluent 3D emoji package.

Source: the npm package ``@lobehub/fluent-emoji-3d`` (MIT), one 256 px WebP per emoji, named by code
points. Captions are the Unicode (CLDR) short names as given by the ``emoji`` package.

The held-out split is by caption: every word of a held-out caption occurs in training captions, only
the combination (skin tone x profession x gender, colour x object) does not.
"""

import hashlib
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import emoji
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

TONES = (
    "light skin tone",
    "medium-light skin tone",
    "medium skin tone",
    "medium-dark skin tone",
    "dark skin tone",
)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")
OBJECTS = ("heart", "circle", "square", "book")
HELD_OUT_COLOURED = ("green heart", "purple circle", "orange square", "blue square", "yellow circle")

# Text is the whole content of the icon, or there are dozens of near copies.
DROPPED = re.compile(
    r"keycap|button|o'clock|thirty|japanese|input |family|couple|kiss (man|woman)|holding hands"
    r"|^(people|men|women) |map of japan|pouting|frowning .*tone|gesturing .*tone"
)
DROPPED_GROUPS = ("Flags", "Symbols", "")
KEPT_SYMBOLS = re.compile(rf"^({'|'.join(COLOURS)}) ({'|'.join(OBJECTS)})$|heart")
# Skin tones multiply a base by five; only those with a gender stay, so that objects are not drowned.
TONED = re.compile(r"^(man|woman) .* skin tone$")


@dataclass(frozen=True)
class Icon:
    """One emoji: code points as in the file name, caption, and its split (``train`` or ``heldout``)."""

    code: str
    caption: str
    split: str


def caption_of(code: str) -> str | None:
    """The Unicode short name of hyphenated hexadecimal code points, in plain lower-case words."""
    names = _names_by_code()
    return names.get(_without_selector(code))


def _without_selector(code: str) -> str:
    return "-".join(part for part in code.split("-") if part != "fe0f")


_NAMES: dict[str, str] = {}


def _names_by_code() -> dict[str, str]:
    if not _NAMES:
        for characters, data in emoji.EMOJI_DATA.items():
            name = data["en"].strip(":").replace("_", " ").replace("’", "'").lower()
            code = _without_selector("-".join(f"{ord(c):04x}" for c in characters))
            _NAMES[code] = re.sub(r"[^a-z0-9' -]", "", name)
    return _NAMES


def select(codes: list[str], groups: dict[str, str]) -> list[Icon]:
    """Choose the icons that a small model can learn and split them.

    Args:
        codes: code points of the available files.
        groups: Unicode group by code (without the variation selector).
    """
    captions: dict[str, str] = {}
    for code in sorted(codes):
        caption = caption_of(code)
        if caption is None or caption in captions.values():
            continue
        if DROPPED.search(caption) or ("skin tone" in caption and not TONED.match(caption)):
            continue
        group = groups.get(_without_selector(code), "")
        if group in DROPPED_GROUPS and not KEPT_SYMBOLS.search(caption):
            continue
        captions[code] = caption
    held_out = _held_out(list(captions.values()))
    return [Icon(code, caption, "heldout" if caption in held_out else "train") for code, caption in captions.items()]


def _held_out(captions: list[str], share: float = 0.17) -> set[str]:
    """Captions whose words are all seen in other captions; chosen by hash, so stable under additions."""
    words = Counter(word for caption in captions for word in set(caption.split()))
    chosen: set[str] = set()
    for caption in sorted(captions, key=lambda text: hashlib.sha256(text.encode()).hexdigest()):
        tone = next((t for t in TONES if caption.endswith(t)), None)
        combination = caption in HELD_OUT_COLOURED
        if tone is not None and TONED.match(caption):
            combination = int(hashlib.sha256(caption.encode()).hexdigest(), 16) % 1000 < 1000 * share
        if combination and all(words[word] >= 3 for word in set(caption.split())):
            chosen.add(caption)
            words.subtract(set(caption.split()))
    return chosen


def render(path: Path, resolution: int) -> Image.Image:
    """The icon on white, as RGB ``resolution`` x ``resolution``."""
    with Image.open(path) as opened:
        icon = opened.convert("RGBA")
    canvas = Image.new("RGBA", icon.size, "white")
    canvas.alpha_composite(icon)
    return canvas.convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS)


def build(source: Path, groups: dict[str, str], target: Path, resolution: int = 128) -> list[Icon]:
    """Write the Parquet file that every training script reads; returns what is in it."""
    files = {path.stem: path for path in source.glob("*.webp")}
    icons = select(list(files), groups)
    images = []
    for icon in icons:
        buffer = io.BytesIO()
        render(files[icon.code], resolution).save(buffer, "WEBP", quality=90, method=6)
        images.append({"bytes": buffer.getvalue(), "path": f"{icon.code}.webp"})
    table = pa.table(
        {
            "code": [icon.code for icon in icons],
            "caption": [icon.caption for icon in icons],
            "split": [icon.split for icon in icons],
            "image": images,
        }
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target, compression="zstd")
    return icons
