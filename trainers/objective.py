"""The settings of what is minimised, which SFT and preference tuning share, and what is made of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pixeval.catalog import find, load
from pixeval.errors import InputError
from pixeval.protocols import Scorer
from trainers.balance import Balance, BalanceConfig, FixedWeight, TermWeight
from trainers.decoder_features import feature_blocks
from trainers.decoder_window import Window, draw_window
from trainers.errors import (
    KINDS,
    PAPER_WEIGHT,
    Answer,
    Argument,
    Band,
    ImageDistance,
    Kind,
    Noised,
    Objective,
    PixelTerm,
)
from trainers.flaw_maps import FlawConfig
from trainers.latent_diffusion import LatentDiffusion
from trainers.losses import weighted_sum
from trainers.optimizer_step import Terms
from trainers.pixel_losses import charbonnier, pixel_sft, pyramid
from trainers.reward import Reward, RewardConfig, named_reward, rewarding
from trainers.train_config import TrainConfig

Distance = Literal["squared", "charbonnier", "pyramid", "lpips", "decoder_features"]
DISTANCES: dict[str, ImageDistance] = {"squared": pixel_sft, "charbonnier": charbonnier, "pyramid": pyramid}


@dataclass(frozen=True)
class PixelConfig:
    """How the pixel term compares; the defaults are the paper's (2)."""

    argument: Argument = "noisy"
    """noisy: D(renoised) against D(z_t), (2); x0: D(x0_hat) against D(z), (8), which the paper tried and rejected."""
    distance: Distance = "squared"
    """Of the two images; decoder_features compares what the decoder computes on the way (LPL, arXiv 2411.04873)."""
    lpips: Path | None = None
    """Weights for the distance lpips, a safetensors file (see docs/metrics.md)."""
    band: Band = (0.0, 1.0)
    """Noise levels of the pixel term as shares of the way from clean to noise; the paper uses all."""


@dataclass(frozen=True)
class ObjectiveConfig(TrainConfig):
    """What is minimised; the settings of the loop come from :class:`TrainConfig`."""

    objective: Objective = "both"
    """latent is (1), pixel is (2), both is (3), for preferences (7); control compares the re-noised latents of (2)
    without decoding them."""
    pixel_weight: float | Literal["balance"] | None = None
    """lambda of (3), mu of (7): a number, or balance; none for the paper's: 8 for a DiT, 2 for a U-Net."""
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    """For pixel_weight balance."""
    pixel: PixelConfig = field(default_factory=PixelConfig)
    """How the pixel term compares."""
    flaws: FlawConfig = field(default_factory=FlawConfig)
    """Where pixel errors count more; nowhere by default."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """A metric that is maximised beside; none by default."""
    decode_crop: int | None = None
    """Side in pixels of a random window of each latent that is decoded for the pixel term, the same for both sides of
    the comparison; none for the whole. Memory and time of the decoder shrink with its area."""
    crop_border: int = 0
    """Latent pixels along the cuts of that window that are decoded but left out of the error."""
    decoder_checkpointing: bool = False
    """Compute the decoder's activations again in the backward pass instead of keeping them: less memory, more time."""
    tiny_decoder: Path | None = None
    """Folder of a diffusers AutoencoderTiny (TAESD, TAEF1 and the like) that decodes for the pixel term in the place of
    the model's own decoder; refused where the two do not agree."""
    bf16_decoder: bool = False
    """Decode in bfloat16 for the pixel term: half of the decoder's activations, and faster where the hardware has it.
    Refused where it does not agree with the model's own decoder in float32."""
    pixel_every: int = 1
    """Steps per pixel term: it is computed at every k-th step and counts k times there, which leaves the mean of the
    gradient over steps as it is and makes it noisier."""
    plan: bool = False
    """Print what a step will cost in memory, arithmetic and time, and do nothing else; reads no weights and no data."""
    plan_tflops: float | None = None
    """What the device reaches in TFLOP/s, for the time in the plan; none to rehearse some steps on this machine."""


def check_objective(config: ObjectiveConfig) -> None:
    """Refuse settings that contradict each other; loads nothing.

    Raises:
        InputError: naming the setting.
    """
    for name, band in (("pixel.band", config.pixel.band), ("reward.band", config.reward.band)):
        if not 0 <= band[0] < band[1] <= 1:
            raise InputError(f"{name} goes from a lower to a higher share between 0 and 1, got {band}")
    if (config.pixel.distance == "lpips") != (config.pixel.lpips is not None):
        raise InputError("pixel.distance lpips and pixel.lpips, the path of its weights, belong together")
    if config.flaws.wanted and "pixel" not in KINDS[config.objective]:
        raise InputError(f"flaw maps weigh the pixel term, and objective {config.objective} has none")
    if config.flaws.wanted and config.pixel.distance == "lpips":
        raise InputError("the distance lpips is one number per image and takes no flaw maps; use another")
    if config.pixel_weight == "balance" and len(KINDS[config.objective]) < 2:
        raise InputError(f"objective {config.objective} has one term only, there is nothing to balance")
    if isinstance(config.pixel_weight, int | float) and not 0 <= config.pixel_weight < math.inf:
        raise InputError(f"pixel_weight is a finite number, not negative, got {config.pixel_weight}")
    if config.reward.metric is not None:
        rewarding(config.reward)
    _check_cost(config)


def _check_cost(config: ObjectiveConfig) -> None:
    """The settings that make the pixel term cheaper."""
    kinds = KINDS[config.objective]
    for name, given in (
        ("decode_crop", config.decode_crop is not None),
        ("decoder_checkpointing", config.decoder_checkpointing),
        ("tiny_decoder", config.tiny_decoder is not None),
        ("bf16_decoder", config.bf16_decoder),
        ("pixel_every", config.pixel_every != 1),
    ):
        if given and "pixel" not in kinds:
            raise InputError(f"{name} is about the pixel term, and objective {config.objective} has none; leave it out")
    if config.pixel_every < 1:
        raise InputError(f"pixel_every is a number of steps of at least 1, got {config.pixel_every}")
    if config.pixel_every > 1 and len(kinds) < 2:
        raise InputError("pixel_every leaves steps without a loss where the pixel term is the only one; use both")
    if config.crop_border < 0 or (config.crop_border and config.decode_crop is None):
        raise InputError(f"crop_border is not negative and belongs to decode_crop, got {config.crop_border}")
    if config.crop_border and config.pixel.distance == "lpips":
        raise InputError("the distance lpips is one number per image and has no border to leave out; use another")
    if config.tiny_decoder is not None and config.bf16_decoder:
        raise InputError("bf16_decoder is the model's own decoder in bfloat16; leave it or tiny_decoder out")
    if config.pixel.distance == "decoder_features" and (config.tiny_decoder is not None or config.bf16_decoder):
        raise InputError(
            "the distance decoder_features is about the model's own decoder; leave tiny_decoder and bf16_decoder out"
        )
    if config.tiny_decoder is not None and config.decoder_checkpointing:
        raise InputError("decoder_checkpointing is for the model's own decoder; leave it or tiny_decoder out")


def pixel_term(config: PixelConfig, model: LatentDiffusion) -> PixelTerm:
    """The comparison that the settings name.

    Raises:
        InputError: the weights of LPIPS are not usable, or the decoder has no features of the kind.
    """
    distance: ImageDistance | None
    if config.distance == "decoder_features":
        feature_blocks(model.vae)
        distance = None
    elif config.distance == "lpips":
        distance = _lpips(config.lpips, model.device)
    else:
        distance = DISTANCES[config.distance]
    return PixelTerm(config.argument, distance, config.band)


class Composition:
    """What the loss of a batch is made of: one or two terms, their weight, and a reward.

    Args:
        config: the settings, checked.
        model: what is trained.
        captions: the distinct prompts of the data.
        side: of the training images in pixels, the shorter one.
        on_frozen: told the weight of the second term when ``balance`` has found it.
        processes: that train together.
        scorer: a reward in the place of one that the settings name.

    Raises:
        InputError: a metric or weights cannot be used.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        model: LatentDiffusion,
        captions: Sequence[str],
        side: int,
        on_frozen: Callable[[float], None] = lambda value: None,
        processes: int = 1,
        scorer: Scorer | None = None,
    ) -> None:
        self.kinds: tuple[Kind, ...] = KINDS[config.objective]
        self._batches_of_a_step = config.accumulate * processes
        self._pixel_every = config.pixel_every
        self._border = config.crop_border
        self._crop = self._crop_of(config, model, side)
        least = find("lpips").min_side
        seen = min(side, config.decode_crop or side)
        if config.pixel.distance == "lpips" and seen < least:
            raise InputError(f"the distance lpips needs images of at least {least} pixels, training has {seen}")
        self.pixel = pixel_term(config.pixel, model)
        named = named_reward(config.reward, model, captions, side)
        self.reward = named if scorer is None else Reward(config.reward, scorer)
        self.weight: TermWeight
        if config.pixel_weight == "balance":
            self.weight = Balance(config.balance, on_frozen)
        else:
            paper = PAPER_WEIGHT[model.backbone]
            self.weight = FixedWeight(paper if config.pixel_weight is None else config.pixel_weight)

    def kinds_at(self, batch: int) -> tuple[Kind, ...]:
        """The errors that are measured on batch number ``batch``: with ``pixel_every``, not always all."""
        step = batch // self._batches_of_a_step
        return self.kinds if step % self._pixel_every == 0 else self.kinds[:1]

    def window(self, n: int, whole: tuple[int, ...], generator: torch.Generator) -> Window | None:
        """What is decoded of ``n`` latents of ``whole`` (h, w); drawn from ``generator`` where it is not everything."""
        if self._crop is None:
            return None
        height, width = whole
        return draw_window(n, (height, width), self._crop, self._border, generator)

    @staticmethod
    def _crop_of(config: ObjectiveConfig, model: LatentDiffusion, side: int) -> int | None:
        if config.decode_crop is None:
            return None
        factor = int(model.pipeline.vae_scale_factor)
        if not 0 < config.decode_crop <= side or config.decode_crop % factor:
            raise InputError(
                f"decode_crop is a multiple of {factor} (pixels per latent pixel) up to {side} pixels, "
                f"got {config.decode_crop}"
            )
        crop = config.decode_crop // factor
        if 2 * config.crop_border >= crop:
            raise InputError(f"crop_border {config.crop_border} leaves nothing of a window of {crop} latent pixels")
        return crop

    def total(self, terms: Sequence[Tensor], answer: Answer) -> Terms:
        """``loss``, the weighted sum of one or two scalars; and ``pixel_weight``, where it is being balanced."""
        first, *rest = terms
        if not rest:
            return {"loss": first}
        weight = self.weight(first, rest[0], answer.output)
        logged = {"pixel_weight": first.new_tensor(weight)} if isinstance(self.weight, Balance) else {}
        return {"loss": weighted_sum(first, rest[0], self._pixel_every * weight), **logged}

    def rewarded(
        self, terms: Terms, model: LatentDiffusion, answer: Answer, noised: Noised, prompts: Sequence[str]
    ) -> Terms:
        """The terms with the reward of the first rows of the batch in the loss.

        ``reward`` is its mean over all of them, 0 where there is none, and ``rewarded`` the share that has one: the
        log divides them.
        """
        if self.reward is None:
            return terms
        values, scored = self.reward.values(model, answer, noised, prompts)
        loss = terms["loss"] + self.reward.loss(values)
        return {**terms, "loss": loss, "reward": values.mean(), "rewarded": scored.float().mean()}


def _lpips(weights: Path | None, device: torch.device) -> ImageDistance:
    metric = load(find("lpips"), weights=str(weights)).to(str(device))

    def distance(decoded: Tensor, decoded_target: Tensor, weight: Tensor | None) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            found: Tensor = metric(decoded.float() / 2 + 0.5, decoded_target.float() / 2 + 0.5)
        return found

    return distance
