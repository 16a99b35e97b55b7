"""What training reads: captioned images and preference pairs, brought to latents and text embeddings.

Every image passes the frozen VAE once and every distinct prompt the frozen text encoder once. The data are read row by
row; rows that cannot be used are left out, counted and named.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pixeval.errors import InputError
from trainers.encoding import ImageEncoder, Latents, Texts, encode_texts
from trainers.flaw_maps import FlawMaps
from trainers.framing import Size, fit_image, fit_marks, nearest_bucket, training_sizes
from trainers.image_sets import Skipped, read_captioned
from trainers.latent_cache import LatentRows
from trainers.latent_diffusion import LatentDiffusion
from trainers.latents import Posterior
from trainers.pair_sets import Side, read_pairs
from trainers.sources import SourceReader, Sources
from trainers.tables import DatasetConfig


class TrainingData(Protocol):
    """What the start of a run needs to know of its data."""

    @property
    def texts(self) -> Texts: ...
    @property
    def prompt(self) -> Tensor: ...
    @property
    def good(self) -> Latents:
        """Latents that the model should be able to make: the images of SFT, the winners of pairs."""
        ...

    @property
    def buckets(self) -> Tensor:
        """Number of the bucket of each row, int64 (N,)."""
        ...

    @property
    def skipped(self) -> tuple[Skipped, ...]: ...

    def __len__(self) -> int: ...


@runtime_checkable
class Traced(Protocol):
    """Data whose rows have names, and latents of one or more sides."""

    @property
    def sources(self) -> Sources: ...
    @property
    def source(self) -> Tensor:
        """Number of each row's name in ``sources``, int64 (N,)."""
        ...

    def sides(self, rows: Tensor, flips: Tensor) -> dict[str, Posterior]:
        """What is read of ``rows``, by what it is: image, or winner and loser; mirrored where ``flips`` says so."""
        ...


@dataclass(frozen=True)
class CaptionedLatents:
    """What SFT reads, on the CPU; N rows."""

    posterior: Latents
    prompt: Tensor
    """Row in ``texts`` of each caption, int64 (N,)."""
    texts: Texts
    skipped: tuple[Skipped, ...]
    buckets: Tensor
    sources: Sources
    source: Tensor
    """Number of each row's name in ``sources``, int64 (N,)."""
    flaws: Sequence[Tensor] | None = None
    """Flaw maps, uint8, N of 1 x H x W; None for none."""
    mirrored: Latents | None = None
    """The latents of the mirrored images; None unless they are wanted."""

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def good(self) -> Latents:
        """What the model should be able to make."""
        return self.posterior

    def sides(self, rows: Tensor, flips: Tensor) -> dict[str, Posterior]:
        """What is read of ``rows``, mirrored where ``flips`` says so."""
        return {"image": mirrored_rows(self.posterior, self.mirrored, rows, flips)}


@dataclass(frozen=True)
class PairedLatents:
    """What preference tuning reads, on the CPU; N pairs."""

    winner: Latents
    loser: Latents
    prompt: Tensor
    soft_label: Tensor
    """Probability that the winner is preferred, float32 (N,)."""
    texts: Texts
    buckets: Tensor
    sources: Sources
    source: Tensor
    """Number of each pair's name in ``sources``, int64 (N,)."""
    winner_flaws: Sequence[Tensor] | None = None
    """Flaw maps, uint8, N of 1 x H x W; None for none."""
    loser_flaws: Sequence[Tensor] | None = None
    skipped: tuple[Skipped, ...] = ()
    mirrored: tuple[Latents, Latents] | None = None
    """The latents of mirrored winners and losers; None unless they are wanted."""

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def good(self) -> Latents:
        """What the model should be able to make."""
        return self.winner

    def sides(self, rows: Tensor, flips: Tensor) -> dict[str, Posterior]:
        """What is read of ``rows``, mirrored where ``flips`` says so."""
        mirrored = (None, None) if self.mirrored is None else self.mirrored
        latents = {"winner": (self.winner, mirrored[0]), "loser": (self.loser, mirrored[1])}
        return {side: mirrored_rows(*both, rows, flips) for side, both in latents.items()}


class Collector:
    """Frames images, encodes them and makes their flaw maps, one after the other.

    Args:
        model: whose VAE is used.
        resolution: height and width to train at; with buckets, their number of pixels.
        flaws: makes the maps; None for no maps.
        dataset: buckets, mirroring and cache.
    """

    def __init__(
        self, model: LatentDiffusion, resolution: Size, flaws: FlawMaps | None, dataset: DatasetConfig
    ) -> None:
        self.sizes = training_sizes(resolution, model.side_multiple, dataset.buckets)
        self.buckets: list[int] = []
        self.maps: list[Tensor] = []
        self.sources = SourceReader()
        self._flaws = flaws
        self._encoder = ImageEncoder(model, dataset.cache)
        self._mirrored = ImageEncoder(model, dataset.cache) if dataset.flip else None

    def begin(self, image: Tensor, name: str, *facts: str | float) -> int:
        """Begin a row; gives the number of the size that its image, 3 x H x W, is brought to.

        Args:
            image: the first of the row.
            name: of the row.
            facts: what training sees of it beside images and marks.
        """
        self.sources.row(name, *facts)
        self.buckets.append(nearest_bucket(image, self.sizes))
        return self.buckets[-1]

    def add(self, image: Tensor, bucket: int, name: str, marks: Tensor | None) -> None:
        """Take an image, 3 x H x W in [0, 1], with the marks from its column."""
        size = self.sizes[bucket]
        fitted = fit_image(image, size)
        self.sources.image(image)
        self._encoder.add(fitted)
        if self._mirrored is not None:
            self._mirrored.add(fitted.flip(-1))
        if self._flaws is not None:
            found = marks if self._flaws.columns else self._flaws.marks_of(name)
            self.sources.image(found)
            self.maps.append(self._flaws.map_of(fitted, fit_marks(found, image, size)))

    def finish(self) -> tuple[Posterior | LatentRows | None, Posterior | LatentRows | None]:
        """Latents of the images and of the mirrored images."""
        return self._encoder.finish(), None if self._mirrored is None else self._mirrored.finish()


def captioned_latents(
    model: LatentDiffusion,
    source: Path,
    resolution: Size,
    flaws: FlawMaps | None = None,
    dataset: DatasetConfig | None = None,
) -> CaptionedLatents:
    """Encode captioned images (see :func:`trainers.image_sets.read_captioned`).

    Args:
        model: whose VAE and text encoders are used.
        source: a folder, file or data set.
        resolution: height and width to train at.
        flaws: makes a map of the flaws of each image; None for no maps.
        dataset: how the data are read; None for the defaults.

    Raises:
        InputError: the source is missing, not understood, holds no usable image, or none of the wanted flaw maps.
    """
    dataset = DatasetConfig() if dataset is None else dataset
    collector = Collector(model, resolution, flaws, dataset)
    skipped: list[Skipped] = []
    captions: list[str] = []
    for entry in read_captioned(source, flaws is not None and flaws.columns, dataset):
        if isinstance(entry.image, str):
            skipped.append(Skipped(entry.name, entry.image, entry.fault))
            continue
        captions.append(entry.caption)
        bucket = collector.begin(entry.image, entry.name, entry.caption)
        collector.add(entry.image, bucket, entry.name, entry.marks)
    posterior, mirrored = collector.finish()
    if posterior is None:
        raise InputError(f"{source} holds no image with a caption that can be used.{_reasons(skipped)}")
    texts, prompt = encode_texts(model, captions, dataset.cache)
    if flaws is not None:
        flaws.check_found(source)
    return CaptionedLatents(
        posterior,
        prompt,
        texts,
        tuple(skipped),
        _used(collector.buckets),
        collector.sources.finish(),
        torch.arange(len(prompt)),
        maps_of(collector.maps),
        mirrored,
    )


def paired_latents(
    model: LatentDiffusion,
    source: Path,
    resolution: Size,
    flaws: FlawMaps | None = None,
    dataset: DatasetConfig | None = None,
) -> PairedLatents:
    """Encode preference pairs (see :func:`trainers.pair_sets.read_pairs`); a pair is framed as its winner.

    Args:
        model: whose VAE and text encoders are used.
        source: a folder, file or data set.
        resolution: height and width to train at.
        flaws: makes a map of the flaws of each image; None for no maps.
        dataset: how the data are read; None for the defaults.

    Raises:
        InputError: the source is missing, damaged or empty, or has none of the wanted flaw maps.
    """
    dataset = DatasetConfig() if dataset is None else dataset
    collector = Collector(model, resolution, flaws, dataset)
    skipped: list[Skipped] = []
    prompts: list[str] = []
    labels: list[float] = []
    for pair in read_pairs(source, flaws is not None and flaws.columns, dataset):
        if isinstance(pair, Skipped):
            skipped.append(pair)
            continue
        prompts.append(pair.prompt)
        labels.append(pair.soft_label)
        name = f"{pair.name}: {pair.chosen.uid}, {pair.rejected.uid}"
        bucket = collector.begin(pair.chosen.image, name, pair.prompt, pair.soft_label)
        for side in (pair.chosen, pair.rejected):
            assert isinstance(side, Side)
            collector.add(side.image, bucket, side.uid, side.marks)
    posterior, mirrored = collector.finish()
    if posterior is None:
        raise InputError(
            f"{source} holds no preference pair that can be used. Make some with 'pixeval pairs'.{_reasons(skipped)}"
        )
    texts, prompt = encode_texts(model, prompts, dataset.cache)
    if flaws is not None:
        flaws.check_found(source)
    return PairedLatents(
        *_sides(posterior),
        prompt,
        torch.tensor(labels),
        texts,
        _used(collector.buckets),
        collector.sources.finish(),
        torch.arange(len(prompt)),
        maps_of(collector.maps[0::2]),
        maps_of(collector.maps[1::2]),
        tuple(skipped),
        None if mirrored is None else _sides(mirrored),
    )


def mirrored_rows(latents: Latents, mirrored: Latents | None, rows: Tensor, flips: Tensor) -> Posterior:
    """The latents of ``rows``, those of the mirrored images where ``flips`` says so."""
    found = latents.rows(rows)
    if mirrored is None or not bool(flips.any()):
        return found
    other, chosen = mirrored.rows(rows), flips[:, None, None, None]
    return Posterior(torch.where(chosen, other.mean, found.mean), torch.where(chosen, other.std, found.std))


def counted(skipped: Sequence[Skipped]) -> dict[str, int]:
    """How many rows were left out for each kind of reason, the most frequent first."""
    return dict(Counter(row.kind for row in skipped).most_common())


def maps_of(maps: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """Maps of all images, N x 1 x H x W where they are of one size; None where there are none."""
    if not maps:
        return None
    return torch.stack(list(maps)) if len({one.shape for one in maps}) == 1 else tuple(maps)  # type: ignore[return-value]


def _used(buckets: Sequence[int]) -> Tensor:
    """Buckets renumbered without those that are empty."""
    number = {bucket: i for i, bucket in enumerate(sorted(set(buckets)))}
    return torch.tensor([number[bucket] for bucket in buckets])


def _sides(latents: Posterior | LatentRows) -> tuple[Latents, Latents]:
    if isinstance(latents, LatentRows):
        return LatentRows(latents.items[0::2]), LatentRows(latents.items[1::2])
    return Posterior(latents.mean[0::2], latents.std[0::2]), Posterior(latents.mean[1::2], latents.std[1::2])


def _reasons(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return ""
    kinds = ", ".join(f"{count} by {kind}" for kind, count in counted(skipped).items())
    return f" Left out: {kinds}. First problem: {skipped[0].name}: {skipped[0].reason}."
