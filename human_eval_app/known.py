"""Pairs whose answer is known: gold pairs, which test annotators unnoticed, and the training round.

They come from a file that a person wrote, or are made of an image and a copy with a planted flaw. A file is a CSV with
a row, or a TOML with a table ``[[pair]]``, for each question about each pair::

    image_a,image_b,question,answer,prompt,why,use
    good.png,bad.png,flaws,a,,The hand has six fingers.,training

``answer`` is a, b or tie; ``use`` is gold (default) or training; ``prompt`` and ``why`` may be left out; paths are
relative to the file. Nothing of this is sent to annotators, except ``why`` as feedback in training.
"""

import csv
import hashlib
import io
import random
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

from human_eval_app.images import UnusableImage, image_size
from human_eval_app.projects import NewPair, PairImage
from human_eval_app.schedule import Matchup
from human_eval_app.study import Arms
from pixeval.errors import InputError
from pixeval.records import Purpose, Question, sample_id

COLUMNS = ("image_a", "image_b", "question", "answer", "prompt", "why", "use")
LEVEL = 4
"""Strength of planted flaws: plainly visible to anybody who looks."""

KnownAnswer = Literal["a", "b", "tie"]


def read_known(file: Path) -> list[NewPair]:
    """The pairs of a file.

    Raises:
        InputError: it cannot be read, or an entry is wrong; naming the entry.
    """
    found: dict[tuple[str, str, str], NewPair] = {}
    for number, row in enumerate(_rows(file), 1):
        where = f"{file}, entry {number}"
        unknown = sorted(set(row) - set(COLUMNS))
        if unknown:
            raise InputError(f"{where}: unknown column {unknown[0]!r}; the columns are {', '.join(COLUMNS)}")
        values = {name: str(row.get(name) or "").strip() for name in COLUMNS}
        question = cast(Question, _one_of(values["question"], get_args(Question), "question", where))
        answer = cast(KnownAnswer, _one_of(values["answer"], get_args(KnownAnswer), "answer", where))
        use = cast(Purpose, _one_of(values["use"] or "gold", ("gold", "training"), "use", where))
        key = (use, values["image_a"], values["image_b"])
        earlier = found.get(key)
        prompt = values["prompt"] or (earlier.prompt if earlier else "")
        a, b = (earlier.a, earlier.b) if earlier else tuple(_image(file, values[n], where) for n in COLUMNS[:2])
        if a.sample == b.sample:
            raise InputError(f"{where}: both images are the same file")
        found[key] = NewPair(
            a=a,
            b=b,
            prompt_id="known-" + hashlib.sha256(prompt.encode()).hexdigest()[:12],
            prompt=prompt,
            questions=(*(earlier.questions if earlier else ()), question),
            purpose=use,
            known={**((earlier.known if earlier else None) or {}), question: answer},
            why={**((earlier.why if earlier else None) or {}), question: values["why"]},
        )
    if not found:
        raise InputError(f"{file} holds no pairs; write one a row, with {', '.join(COLUMNS[:4])}")
    return list(found.values())


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        if file.suffix.lower() == ".toml":
            pairs = tomllib.loads(text).get("pair", [])
            if isinstance(pairs, list) and all(isinstance(pair, dict) for pair in pairs):
                return pairs
            raise InputError(f"{file}: write each pair as a table [[pair]]")
    except (OSError, UnicodeDecodeError, csv.Error, tomllib.TOMLDecodeError) as error:
        raise InputError(f"known answers {file} cannot be read ({error})") from error
    raise InputError(f"known answers {file} must be .csv or .toml")


def _one_of(value: str, allowed: Sequence[str], column: str, where: str) -> str:
    if value not in allowed:
        raise InputError(f"{where}: {column} is {value!r}; it must be {' or '.join(allowed)}")
    return value


def _image(file: Path, name: str, where: str) -> PairImage:
    path = file.parent / name
    if not name:
        raise InputError(f"{where}: name two images, image_a and image_b")
    try:
        width, height = image_size(path)
    except UnusableImage as error:
        raise InputError(f"{where}: {error}") from error
    identity = sample_id("known", None, None, hashlib.sha256(path.read_bytes()).hexdigest())
    return PairImage(identity, "known", path, width, height)


# ---- planted flaws ---------------------------------------------------------------------------------------------------


def planted_pairs(
    arms: Arms, matchups: Sequence[Matchup], count: int, purpose: Purpose, folder: Path, seed: int
) -> list[NewPair]:
    """Pairs of an image of the study and a copy with a planted flaw, about flaws; the same for the same arguments.

    Args:
        folder: where the copies are kept, for as long as the study.

    Raises:
        InputError: in the images of the study no such number of flaws would be visible.
    """
    # Needs torch, which a server without planted flaws does not.
    from pixeval.images import UnreadableImage, read_image, write_png
    from pixeval.validation.planted_flaws import PLANTED, VISIBLE, plant

    rng = random.Random(f"planted/{purpose}/{seed}")
    labels = {sample.id: label for label, group in arms.groups.items() for sample in group}
    sources = [(m, s) for m in sorted(matchups, key=lambda m: m.key) for s in (m.a, m.b)]
    # One image for gold and training would show the same picture twice.
    random.Random(f"planted/{seed}").shuffle(sources)
    sources = sources[::-1] if purpose == "training" else sources
    pairs: list[NewPair] = []
    for matchup, sample in sources:
        if len(pairs) == count:
            break
        flaw = rng.choice(PLANTED)
        try:
            clean = PairImage(sample.id, labels[sample.id], arms.images[sample.id], *image_size(arms.images[sample.id]))
            planted = plant(flaw, read_image(clean.path), LEVEL, sample.id)
        except (UnusableImage, UnreadableImage):
            continue
        if planted.change < VISIBLE:
            continue
        identity = sample_id(f"planted:{flaw.name}", sample.prompt_id, sample.seed, sample.id)
        path = folder / f"{identity}.png"
        write_png(planted.pixels, path)
        flawed = PairImage(identity, f"{clean.label} with {flaw.name}", path, clean.width, clean.height)
        why = f"The other image was spoilt: {flaw.name.replace('_', ' ')}."
        pairs.append(
            NewPair(
                clean,
                flawed,
                matchup.prompt_id,
                matchup.prompt,
                ("flaws",),
                purpose=purpose,
                known={"flaws": "a"},
                why={"flaws": why},
            )
        )
    if len(pairs) < count:
        raise InputError(f"only {len(pairs)} of {count} planted flaws would be visible in these images; ask for fewer")
    return pairs
