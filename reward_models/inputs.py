"""Inputs of the heads for many images and prompts: cached features of frozen encoders, or a tuned encoder's own."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from pixeval.images import UnreadableImage, decode_image
from pixeval.protocols import Encoder
from pixeval.scoring.batches import in_halves
from pixeval.scoring.cache import Cache, feature_key
from reward_models.judgements import Judgement, Picture
from reward_models.model import RewardModel
from reward_models.views import Contours, FlawView, Reading

TOGETHER = 16
"""Images decoded and encoded at once."""
LEAST_SIDE = 8
"""Smaller images are not encoded: there is nothing in them to see."""


class Rows(Protocol):
    """Features by row number."""

    def __call__(self, rows: Tensor) -> Tensor:
        """(n,) row numbers -> n x D inputs of the heads."""
        ...


class Table(NamedTuple):
    """Judgements as numbers: which rows of distinct (image, prompt) each compares."""

    keys: list[tuple[str, str]]
    """(SHA-256 of the image, prompt) of every row."""
    pictures: dict[str, Picture]
    """By SHA-256."""
    first: Tensor
    """(n,) rows of the first images."""
    second: Tensor


def tabulate(judgements: Sequence[Judgement]) -> Table:
    """The distinct images with their prompts, in order of appearance."""
    places: dict[tuple[str, str], int] = {}
    pictures: dict[str, Picture] = {}
    sides: tuple[list[int], list[int]] = ([], [])
    for judgement in judgements:
        for side, picture in zip(sides, (judgement.first, judgement.second), strict=True):
            pictures.setdefault(picture.sha256, picture)
            side.append(places.setdefault((picture.sha256, judgement.prompt), len(places)))
    return Table(list(places), pictures, torch.tensor(sides[0]), torch.tensor(sides[1]))


def readable(judgements: Sequence[Judgement], reasons: Mapping[str, str]) -> list[Judgement]:
    """Those whose images both have features."""
    return [j for j in judgements if j.first.sha256 not in reasons and j.second.sha256 not in reasons]


class Frozen:
    """Inputs of a model whose encoder is frozen, all in memory.

    Args:
        views: features of each view by SHA-256, of :func:`view_features`.
    """

    def __init__(self, model: RewardModel, table: Table, views: Mapping[str, Mapping[str, Tensor]]) -> None:
        device = model.encoder.device
        text = model.text_features([prompt for _, prompt in table.keys])
        stacked = {view: torch.stack([rows[sha] for sha, _ in table.keys]) for view, rows in views.items()}
        with torch.no_grad():
            self.all = model.joined({view: rows.to(device) for view, rows in stacked.items()}, text)

    def __call__(self, rows: Tensor) -> Tensor:
        """n x D."""
        return self.all[rows]


class Tuned:
    """Inputs of a model whose encoder has adapters: computed from the pixels each time, with gradients."""

    def __init__(self, model: RewardModel, table: Table, flaws: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.model, self.table, self.flaws = model, table, flaws
        self.text = model.text_features([prompt for _, prompt in table.keys])

    def __call__(self, rows: Tensor) -> Tensor:
        """n x D."""
        found = [self._one(row) for row in rows.tolist()]
        text = None if self.text is None else self.text[rows]
        return self.model.joined({view: torch.cat([one[view] for one in found]) for view in found[0]}, text)

    def _one(self, row: int) -> dict[str, Tensor]:
        sha, _ = self.table.keys[row]
        picture, device = self.table.pictures[sha], self.model.encoder.device
        image = decode_image(picture.contents(), picture.name)[None].to(device)
        views: dict[str, Encoder] = {"whole": self.model.encoder, **self.model.views}
        frozen = {view: rows[sha][None].to(device) for view, rows in self.flaws.items()}
        return {name: frozen[name] if name in frozen else view(image) for name, view in views.items()}


def view_features(
    views: Mapping[str, Encoder], pictures: Iterable[Picture], cache: Cache | None, progress: bool = True
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Features of every view by SHA-256 of the image, and why some images have none.

    What the cache holds is not computed again, and what is computed is put there at once, so that a killed command
    goes on where it was. Detectors are cached one by one: a new version of one costs that one only.
    """
    parts = _parts(views)
    found: dict[str, dict[str, Tensor]] = {name: {} for name in parts}
    reasons: dict[str, str] = {}
    ordered = sorted(pictures, key=lambda picture: picture.sha256)
    if cache is not None:
        for name, view in parts.items():
            keys = {feature_key(picture.sha256, view.fingerprint): picture.sha256 for picture in ordered}
            known = cache.features(list(keys))
            found[name] = {keys[key]: torch.from_numpy(vector.copy()) for key, vector in known.items()}
    open_ones = [p for p in ordered if any(p.sha256 not in rows for rows in found.values())]
    with tqdm(total=len(open_ones), desc="encode", unit="image", file=sys.stderr, disable=not progress) as bar:
        for start in range(0, len(open_ones), TOGETHER):
            part = open_ones[start : start + TOGETHER]
            for group, images in _decoded(part, reasons):
                for name, view in parts.items():
                    missing = [k for k, picture in enumerate(group) if picture.sha256 not in found[name]]
                    _encode(view, [group[k] for k in missing], images[missing], found[name], cache)
            bar.update(len(part))
    whole = [picture.sha256 for picture in ordered if picture.sha256 not in reasons]
    return {view: {sha: _side_by_side(found, view, sha) for sha in whole} for view in views}, reasons


def _parts(views: Mapping[str, Encoder]) -> dict[str, Encoder]:
    found: dict[str, Encoder] = {}
    for name, view in views.items():
        if isinstance(view, FlawView):
            found |= {f"{name}/{part.fingerprint}": _Enlarged(view, part) for part in view.parts}
        else:
            found[name] = view
    return found


class _Enlarged:
    """A part of the flaw view that takes images of any size."""

    def __init__(self, view: FlawView, part: Reading | Contours) -> None:
        self.view, self.part = view, part
        self.fingerprint, self.device = part.fingerprint, view.device

    def __call__(self, images: Tensor) -> Tensor:
        return self.part(self.view.enlarged(images))


def _side_by_side(found: Mapping[str, Mapping[str, Tensor]], view: str, sha: str) -> Tensor:
    return torch.cat([rows[sha] for name, rows in found.items() if name == view or name.startswith(f"{view}/")])


def _encode(view: Encoder, group: list[Picture], images: Tensor, into: dict[str, Tensor], cache: Cache | None) -> None:
    if not group:
        return
    with torch.no_grad():
        rows = in_halves(view, images.to(view.device)).cpu()
    into.update((picture.sha256, row) for picture, row in zip(group, rows, strict=True))
    if cache is not None:
        keyed = ((feature_key(p.sha256, view.fingerprint), row) for p, row in zip(group, rows.numpy(), strict=True))
        cache.put_features(keyed, view.fingerprint)


def _decoded(part: Sequence[Picture], reasons: dict[str, str]) -> list[tuple[list[Picture], Tensor]]:
    """Images of equal size together, N x 3 x H x W."""
    by_size: dict[tuple[int, ...], list[tuple[Picture, Tensor]]] = {}
    for picture in part:
        try:
            image = decode_image(picture.contents(), picture.name)
        except UnreadableImage as error:
            reasons[picture.sha256] = str(error)
            continue
        if min(image.shape[-2:]) < LEAST_SIDE:
            reasons[picture.sha256] = f"{picture.name} is smaller than {LEAST_SIDE} pixels a side"
            continue
        by_size.setdefault(tuple(image.shape), []).append((picture, image))
    return [([p for p, _ in group], torch.stack([i for _, i in group])) for group in by_size.values()]
