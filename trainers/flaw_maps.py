"""Where flaws are in the training images: marks of people, and heat maps of the flaw detectors.

They become weights of the pixel error (:func:`trainers.pixel_losses.emphasis`), which only a pixel objective can have.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pixeval.catalog import CATALOG, find, load
from pixeval.errors import InputError
from pixeval.images import EXTENSIONS, UnreadableImage, read_image
from pixeval.metric_spec import MetricSpec
from pixeval.protocols import FlawScorer
from pixeval.weights import parse_weights
from trainers.named_files import file_within

COLUMN = "column"
"""``FlawConfig.maps`` for maps that lie in the data themselves."""


@dataclass(frozen=True)
class FlawConfig:
    """Which places of the training images count more, or less, in the pixel error."""

    maps: str | None = None
    """Folder of greyscale images, white where flaws are, named as the training images (for pairs: by sample id) with
    .png; or 'column' for the column flaw_map of the data (for pairs: chosen_flaw_map and rejected_flaw_map)."""
    detectors: tuple[str, ...] = ()
    """Flaw metrics whose heat maps are added; they are run on the training images once, before training."""
    weights: tuple[str, ...] = ()
    """NAME=PATH for those whose weights are not bundled, as in learned_flaw=maps/mine."""
    kappa: float = 4.0
    """Marked places count 1 + kappa times as much; of losers in pairs, and of SFT images. -1 leaves them out."""
    winner_kappa: float = 0.0
    """The same for winners of pairs."""

    @property
    def wanted(self) -> bool:
        """Whether there are maps at all."""
        return self.maps is not None or bool(self.detectors)


class FlawMaps:
    """Makes one map per training image; reads marks and runs detectors.

    Raises:
        InputError: an unknown detector, one without heat maps or without its weights, a missing folder, or kappa below
            -1.
    """

    def __init__(self, config: FlawConfig, device: torch.device) -> None:
        if min(config.kappa, config.winner_kappa) < -1:
            raise InputError(f"flaws.kappa must be at least -1, got {config.kappa} and {config.winner_kappa}")
        self.columns = config.maps == COLUMN
        self.folder = None if config.maps is None or self.columns else Path(config.maps).resolve()
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(f"{config.maps} is not a folder of flaw maps; give one, or 'column'")
        self.found = 0
        self._device = device
        self._detectors: list[FlawScorer] = []
        self._least = 1
        weights = parse_weights(config.weights, CATALOG)
        for name in config.detectors:
            spec = find(name)
            if spec.family != "flaws":
                raise InputError(f"{name} has no heat maps; give metrics of the family flaws")
            self._detectors.append(_detector(spec, weights.get(name), device))
            self._least = max(self._least, spec.min_side)

    def marks_of(self, name: str) -> Tensor | None:
        """1 x h x w in [0, 1]: the marks of the image called ``name``, where the folder has any.

        Raises:
            InputError: the file cannot be read.
        """
        if self.folder is None:
            return None
        extension = next((ending for ending in EXTENSIONS if name.lower().endswith(ending)), "")
        path = file_within(self.folder, name[: len(name) - len(extension)] + ".png")
        if isinstance(path, str) or not os.path.isfile(path):  # unlike Path.is_file, says no to any name at all
            return None
        try:
            return read_image(path).mean(0, keepdim=True)
        except UnreadableImage as error:
            raise InputError(f"flaw map {path}: {error}") from error

    @torch.no_grad()
    def map_of(self, image: Tensor, marks: Tensor | None) -> Tensor:
        """uint8 1 x H x W, 255 for certain flaws: the largest of marks and heat maps at each place.

        Args:
            image: 3 x H x W in [-1, 1], as it is trained on.
            marks: 1 x H x W in [0, 1], brought to the same frame.
        """
        if min(image.shape[1:]) < self._least:
            raise InputError(f"the flaw detectors need images of {self._least} pixels, training has {image.shape[1:]}")
        seen = image[None].to(self._device) / 2 + 0.5
        heat = [detector.heatmap(seen.clamp(0, 1))[:1].cpu() for detector in self._detectors]
        if marks is not None:
            self.found += 1
            heat.append(marks)
        if not heat:
            return torch.zeros(1, *image.shape[1:], dtype=torch.uint8)
        return (torch.stack(heat).amax(0).clamp(0, 1) * 255).round().to(torch.uint8)

    def check_found(self, source: Path) -> None:
        """Refuse maps of which none belongs to an image of ``source``.

        Raises:
            InputError: saying where they were looked for.
        """
        if self.folder is not None and not self.found:
            raise InputError(
                f"no flaw map in {self.folder} belongs to an image of {source}; "
                "name them as the images (for pairs: as the sample ids), with .png"
            )
        if self.columns and not self.found:
            raise InputError(f"{source} has no flaw maps in its columns; add flaw_map, or give a folder of maps")


def _detector(spec: MetricSpec, weights: str | None, device: torch.device) -> FlawScorer:
    if "weights" in spec.needs and weights is None:
        raise InputError(f"{spec.name} needs weights; give flaws.weights {spec.name}=PATH ({spec.weights_format})")
    loaded = load(spec, weights=weights)
    found: FlawScorer = loaded if weights is None else loaded.to(str(device))
    return found


def rows_of(maps: Sequence[Tensor] | None, rows: Tensor, flips: Tensor | None = None) -> Tensor | None:
    """Some of N uint8 maps of 1 x H x W, as float32 n x 1 x H x W in [0, 1]; mirrored where ``flips`` says so."""
    if maps is None:
        return None
    found = torch.stack([maps[row] for row in rows.tolist()]).float() / 255
    return found if flips is None else torch.where(flips[:, None, None, None], found.flip(-1), found)
