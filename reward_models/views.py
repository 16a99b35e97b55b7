"""What a reward model sees of an image: the whole at the encoder's size, crops at full resolution, and flaw detectors.

Each view is an :class:`pixeval.protocols.Encoder` with a fingerprint of its own, so that its features are kept in the
cache of ``pixeval score``; the whole view has the encoder's, and shares its entries.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pixeval.catalog import load, select
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.metrics.filters import gaussian, luma, sobel
from pixeval.preprocess import prepare
from pixeval.pretrained import load_model, load_processor
from pixeval.protocols import Encoder
from pixeval.weight_files import digest

Detail = Literal["crops", "flaws"]
DINO = "dino:"
"""Names of image-only encoders begin so."""
DINO_KINDS = ("dinov2", "dinov3")
WINDOW = 16
"""Side of the windows in pixels over which heat is averaged before the worst is taken."""
SMOOTH, WIDE = 1.5, (4.0, 8.0)
"""Scales of contours, and of the surroundings over which they are straight or not, in pixels."""
MOST_CROPS = 16
"""At most so many crops of one image, in a grid that reaches all borders; what is larger is covered in part."""


class DinoEncoder:
    """DINOv2 (arXiv 2304.07193) or DINOv3 (2508.10104) of transformers: images only, the class token of unit length.

    Size, mean, deviation and interpolation are the published processor's. But where that one resizes to more than it
    then cuts out of the middle (256 and 224 pixels), the shorter side is resized to what is cut out: a flaw at the
    border is a flaw.
    """

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        self.model: nn.Module = model.eval().requires_grad_(False)
        self.preprocess = settings
        tensors = {name: tensor.float() for name, tensor in model.state_dict().items()}
        told = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
        self.fingerprint = f"dino-{digest(tensors)}-{settings['size']}-{told}"

    @classmethod
    def load(cls, source: str) -> "DinoEncoder":
        """From a local folder or by hub name, as ``facebook/dinov2-base``.

        Raises:
            InputError: as :func:`pixeval.pretrained.load_model`, or a model of another kind.
        """
        model = load_model("AutoModel", source, "the DINO encoder", dtype=torch.float32)
        kind = model.config.model_type
        if not kind.startswith(DINO_KINDS):
            raise InputError(f"{source} is no DINO but a {kind!r}; give a DINOv2 or DINOv3, as facebook/dinov2-base")
        return cls(model, _preprocessing(load_processor("AutoImageProcessor", source, "the DINO encoder")))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def to(self, device: str) -> "DinoEncoder":
        """Move the weights; returns itself."""
        self.model.to(device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """N x 3 x H x W in [0, 1] -> N x D float32 of unit length."""
        found = self.model(pixel_values=prepare(images.to(self.device), self.preprocess))
        return F.normalize(found.last_hidden_state[:, 0].float(), dim=-1)


def _preprocessing(processor: Any) -> dict[str, Any]:
    """A processor of transformers as :func:`pixeval.preprocess.prepare` takes it."""
    cut = bool(getattr(processor, "do_center_crop", False) and processor.crop_size)
    sides = dict(processor.crop_size if cut else processor.size)
    size = int(sides.get("height") or sides.get("shortest_edge") or 224)
    mode = "shortest" if cut or "shortest_edge" in sides else "squash"
    kind = "bilinear" if processor.resample == Image.Resampling.BILINEAR else "bicubic"
    mean, std = list(processor.image_mean), list(processor.image_std)
    return {"size": size, "mean": mean, "std": std, "resize_mode": mode, "interpolation": kind}


def load_encoder(name: str, device: str = "cpu") -> ClipEncoder | DinoEncoder:
    """An encoder by name: of open_clip (CLIP, SigLIP) as :meth:`ClipEncoder.load` takes them, or ``dino:SOURCE``.

    Raises:
        InputError: there is none of this name.
    """
    if name == DINO:
        raise InputError(f"--encoder {DINO} names no model; give a folder or a hub name, as {DINO}facebook/dinov2-base")
    if name.startswith(DINO):
        return DinoEncoder.load(name.removeprefix(DINO)).to(device)
    return ClipEncoder.load(name, device)


def encoder_side(encoder: ClipEncoder | DinoEncoder) -> int:
    """Side of the images that an encoder reads, in pixels."""
    size = encoder.preprocess["size"]
    return int(size if isinstance(size, int) else min(size))


class CropView:
    """The encoder on crops at full resolution: mean and largest value over the crops of each feature.

    Crops have the encoder's own size. An image of less than twice that size is seen in crops of half its shorter side,
    enlarged; so a small image still is seen in parts.
    """

    def __init__(self, encoder: ClipEncoder | DinoEncoder) -> None:
        self.encoder = encoder
        self.side = encoder_side(encoder)
        self.fingerprint = f"crops/2-{MOST_CROPS}/{encoder.fingerprint}"

    @property
    def device(self) -> torch.device:
        """The encoder's."""
        return self.encoder.device

    def __call__(self, images: Tensor) -> Tensor:
        """N x 2D float32 for N x 3 x H x W in [0, 1]."""
        parts = crops(images, self.side)
        features = torch.stack([self.encoder(part) for part in parts], 1)
        return torch.cat((features.mean(1), features.amax(1)), 1)


def crops(images: Tensor, side: int) -> list[Tensor]:
    """Square parts of N x 3 x H x W in an even grid from border to border, each N x 3 x s x s, row by row.

    s is ``side``, or less for small images. The parts cover the image as far as ``MOST_CROPS`` of them can.
    """
    height, width = images.shape[-2:]
    size = min(side, max(1, min(height, width) // 2))
    rows, columns = _grid(-(-height // size), -(-width // size))
    tops, lefts = _places(height, size, rows), _places(width, size, columns)
    return [images[..., top : top + size, left : left + size] for top in tops for left in lefts]


def _grid(rows: int, columns: int) -> tuple[int, int]:
    """At most ``MOST_CROPS`` parts: the longer axis gives way first, so that none is left out."""
    while rows * columns > MOST_CROPS:
        rows, columns = (rows - 1, columns) if rows > columns else (rows, columns - 1)
    return rows, columns


def _places(length: int, size: int, count: int) -> list[int]:
    return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]


class Reading:
    """One flaw detector at full resolution: roots of the mean heat, of the worst window's and of the worst pixel's.

    Roots, because a flaw of a small part still is a flaw. Higher is worse in every column.
    """

    width = 3

    def __init__(self, detector: Any, device: torch.device, differentiable: bool) -> None:
        self.detector, self.device = detector, device
        self.differentiable = differentiable
        """Whether the catalogue vouches for its slopes; without, it enters as a constant: some are no number on flat
        ground."""
        self.fingerprint = f"reading/1-{WINDOW}/{detector.fingerprint}"

    def __call__(self, images: Tensor) -> Tensor:
        """N x 3 float32."""
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            return _readings(self.detector.heatmap(images.to(self.device))).float()


class Contours:
    """How far contours are from straight (:func:`contour_disorder`), which warps raise and hardly a detector reads."""

    width = len(WIDE)
    fingerprint = "contours/1"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, images: Tensor) -> Tensor:
        """N x 2 float32."""
        return contour_disorder(images.to(self.device)).float()


class FlawView:
    """Readings of pixeval's own flaw detectors at full resolution, and of contours; higher is worse in every column.

    No weights but those the catalogue bundles.
    """

    def __init__(self, device: str | torch.device = "cpu", detectors: Sequence[str] = ()) -> None:
        """``detectors``: flaw metrics of the catalogue; by default all that need nothing but the image."""
        self._device = torch.device(device)
        specs = select(detectors) if detectors else [spec for spec in select(["flaws"]) if not spec.needs]
        self.names = [spec.name for spec in specs]
        self.parts: list[Reading | Contours] = [
            *(Reading(load(spec), self._device, spec.differentiable) for spec in specs),
            Contours(self._device),
        ]
        self.side = max(spec.min_side for spec in specs)
        told = "/".join(part.fingerprint for part in self.parts)
        self.fingerprint = f"flaw-view/1-{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    @property
    def device(self) -> torch.device:
        """Where the readings come out."""
        return self._device

    @property
    def width(self) -> int:
        """Columns of all parts."""
        return sum(part.width for part in self.parts)

    def __call__(self, images: Tensor) -> Tensor:
        """N x width float32, at least 0, for N x 3 x H x W in [0, 1]."""
        images = self.enlarged(images)
        return torch.cat([part(images) for part in self.parts], 1)

    def inputs(self, readings: Tensor) -> Tensor:
        """What the heads get of N x width readings: N x 2 width, them and their squares, which rise with them.

        Readings are roots, which tell faint flaws from none; squares tell strong flaws from several faint ones.
        """
        return torch.cat((readings, readings.square()), 1)

    def enlarged(self, images: Tensor) -> Tensor:
        """Images of fewer pixels than a detector needs, enlarged by repetition; others as they are."""
        short = min(images.shape[-2:])
        if short >= self.side:
            return images
        return F.interpolate(images, scale_factor=float(-(-self.side // short)), mode="nearest")


def _readings(heat: Tensor) -> Tensor:
    """N x H x W -> N x 3."""
    window = min(WINDOW, *heat.shape[-2:])
    worst = F.avg_pool2d(heat[:, None], window, max(1, window // 2)).flatten(1).amax(1)
    # a slope of the root at nothing would be infinite
    return (torch.stack((heat.flatten(1).mean(1), worst, heat.flatten(1).amax(1)), 1) + 1e-6).sqrt()


def contour_disorder(images: Tensor) -> Tensor:
    """1 - coherence of the structure tensor (Bigun and Granlund 1987), weighted by contrast: N x 2, in [0, 1].

    0 where all contours within a few pixels have one direction. Warps and melted structure raise it, as do corners and
    texture; so it compares versions of one picture, not pictures.
    """
    down, across = sobel(gaussian(luma(images), SMOOTH))
    found = []
    for wide in WIDE:
        a, b, c = (gaussian(plane, wide) for plane in (across * across, down * down, across * down))
        energy = a + b + 1e-6
        coherence = ((a - b).square() + 4 * c.square() + 1e-12).sqrt() / energy
        found.append(1 - (coherence * energy).flatten(1).sum(1) / energy.flatten(1).sum(1))
    return torch.stack(found, 1)


def detail_views(
    encoder: ClipEncoder | DinoEncoder, detail: Sequence[Detail], detectors: Sequence[str] = ()
) -> dict[str, Encoder]:
    """The views beside the whole one, by name, in a fixed order; ``detectors`` as of :class:`FlawView`."""
    found: dict[str, Encoder] = {}
    if "crops" in detail:
        found["crops"] = CropView(encoder)
    if "flaws" in detail:
        found["flaws"] = FlawView(encoder.device, detectors)
    return found


def check_folder(name: str) -> str:
    """An encoder's name as it is kept in a saved model: folders by their absolute path.

    Raises:
        InputError: it ends like a pickled file.
    """
    bare = name.removeprefix(DINO)
    if Path(bare).suffix in (".pt", ".pth", ".bin"):
        raise InputError(f"--encoder {name!r} is pickled and not read; give a folder with safetensors")
    return f"{name.removesuffix(bare)}{Path(bare).resolve()}" if Path(bare).is_dir() else name
