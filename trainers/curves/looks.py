"""A trained denoiser on held-out data: its errors with fixed noise, and the images that it makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pixeval.catalog import find
from pixeval.catalog import load as load_metric
from pixeval.encoders import ClipEncoder
from pixeval.metrics.filters import luma
from pixeval.metrics.spectrum import band_energy
from pixeval.pipelines import Sampler, load_generator
from trainers.data import CaptionedLatents, PairedLatents
from trainers.errors import Answer, Noised
from trainers.families.detect import load
from trainers.held_out import BANDS, HeldOut, Judged
from trainers.latent_diffusion import LatentDiffusion
from trainers.objective import Composition
from trainers.sft import SftConfig, sft_probe
from trainers.training_log import Line

AT_ONCE = 16
FLAWS = (
    "blur_flaw",
    "noise_flaw",
    "grid_flaw",
    "checkerboard_flaw",
    "ringing_flaw",
    "colour_bleeding_flaw",
    "oversaturation_flaw",
)
QUALITY = ("high_frequency", "cpbd", "clip_score")


@dataclass(frozen=True)
class Judge:
    """Fixed held-out samples, or pairs, that denoisers of one model are asked about."""

    model: LatentDiffusion
    data: CaptionedLatents | PairedLatents

    def errors(self, denoiser: torch.nn.Module) -> Line:
        """A line as in ``probes.jsonl``, of what ``denoiser`` predicts; without a ratio of gradients."""
        config = SftConfig(Path(), Path(), Path(), objective="latent")
        composition = Composition(config, self.model, self.data.texts.prompts, self.model.resolution[0])
        if isinstance(self.data, PairedLatents):
            sides = {"winner": self.data.winner, "loser": self.data.loser}
        else:
            sides = {"": self.data.posterior}
        data = self.data
        held = HeldOut(self.model, sides, data.prompt, data.buckets, data.texts, composition, 0, AT_ONCE)
        return held.look(denoiser, _nothing)

    def of_checkpoint(self, folder: Path) -> Line:
        """The same for a trained pipeline."""
        return self.errors(load(folder).denoiser)

    def ratio(self, **settings: Any) -> float:
        """Norm of the second term's gradient over the first's at the denoiser's output, of the untrained model.

        At a weight of 1; it is proportional to the weight. ``settings`` are those of the objective.
        """
        config = SftConfig(Path(), Path(), Path(), batch_size=AT_ONCE, pixel_weight=1.0, **settings)
        composition = Composition(config, self.model, self.data.texts.prompts, self.model.resolution[0])
        line = sft_probe(self.model, cast(CaptionedLatents, self.data), config, composition)(self.model.denoiser)
        return float(line["gradient_ratio"])


def _nothing(answer: Answer, noised: Noised, number: int) -> Judged:
    return Judged([], {})


@torch.no_grad()
def generate(model: Path, captions: Sequence[str], seeds: Sequence[int], steps: int) -> Tensor:
    """Images of ``captions``, N x 3 x H x W in [0, 1]."""
    generator = load_generator(str(model), Sampler(steps=steps))
    parts = range(0, len(captions), AT_ONCE)
    return torch.cat([generator(captions[i : i + AT_ONCE], seeds[i : i + AT_ONCE]) for i in parts])


def band_levels(images: Tensor) -> dict[str, list[float]]:
    """Energy of luma by radial frequency band, log10 of each image; N x 3 x H x W in [0, 1]."""
    grey = luma(images)
    return {name: band_energy(grey, *limits).clamp_min(1e-12).log10().tolist() for name, limits in BANDS.items()}


@torch.no_grad()
def metric_values(images: Tensor, captions: Sequence[str]) -> dict[str, list[float]]:
    """Flaw metrics (lower is better) and quality (higher is better) of every image, by name.

    Metrics that need larger images are left out.
    """
    encoder = ClipEncoder.load()
    found: dict[str, list[float]] = {}
    for name in (*FLAWS, *QUALITY):
        spec = find(name)
        if min(images.shape[-2:]) < spec.min_side:
            continue
        metric: Any = load_metric(spec, encoder=encoder)
        found[name] = metric(images, list(captions)).tolist()
    return found


@torch.no_grad()
def through_vae(model: LatentDiffusion, images: Tensor) -> Tensor:
    """What the VAE leaves of images, the most that a model behind it can reach; both N x 3 x H x W in [0, 1]."""
    parts = [images[i : i + AT_ONCE] * 2 - 1 for i in range(0, len(images), AT_ONCE)]
    parts = [model.decode(model.encode(part).mean) for part in parts]
    return torch.cat(parts).float().clamp(-1, 1) / 2 + 0.5
