"""The passes of a training step on an outline of the model: the loss as the trainer computes it, on invented data."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixeval.errors import InputError
from trainers.bf16_decoder import Bf16Decoder
from trainers.decoder_checkpoints import checkpoint_decoder
from trainers.decoder_window import Window
from trainers.errors import Answer, Kind, Noised, PixelTerm, add_noise, ask, errors, measure
from trainers.image_to_image import ImageToImageConfig
from trainers.latent_diffusion import LatentDiffusion
from trainers.objective import DISTANCES, ObjectiveConfig
from trainers.optimizer_step import fast_attention
from trainers.outline import Outline, read_json
from trainers.pixel_losses import pixel_sft
from trainers.preference import WITH_REFERENCE, PreferenceConfig
from trainers.tiny_decoder import TinyDecoder


@dataclass(frozen=True)
class Batch:
    """What one pass is made of."""

    rows: int
    """Latents that the denoiser is asked about: samples, or twice the pairs."""
    size: tuple[int, int]
    """Height and width of the latents."""
    window: Window | None


class PlannedStep:
    """A configuration on the outline of its model.

    Args:
        config: as it would be trained.
        cuda: whether it is planned for CUDA.
        device: where to run on real tensors of random numbers; None for tensors without data.

    Raises:
        InputError: the settings do not fit the model, or it is not understood.
    """

    def __init__(self, config: ObjectiveConfig, cuda: bool, device: torch.device | None = None) -> None:
        self.config, self.cuda = config, cuda
        self.outline = Outline(config.model, device)
        model = self.model = self.outline.model
        if config.lora_rank is not None:
            model.adapt(config.lora_rank, config.lora_alpha, config.lora_targets, config.seed)
        self.batch = _batch(config, self.outline)
        if config.decoder_checkpointing:
            checkpoint_decoder(model.vae)
        self.cheaper_decoder = _cheaper_decoder(config, model)
        """What decodes for the pixel term in the place of the model's own decoder."""
        self.modules = [model.vae, model.denoiser, *([] if self.cheaper_decoder is None else [self.cheaper_decoder])]
        self.outline.settle(*self.modules)
        model.denoiser.train()
        self.pixel = _pixel(config, self.cheaper_decoder)

    @property
    def learned(self) -> list[nn.Parameter]:
        """Parameters that are trained."""
        return [parameter for parameter in self.model.denoiser.parameters() if parameter.requires_grad]

    @property
    def channels(self) -> int:
        """Of the latents."""
        config: Any = self.model.vae.config
        return int(config.get("latent_channels") or config["z_dim"])

    @property
    def asks_reference(self) -> bool:
        """Whether a reference answers at every step."""
        config = self.config
        return (
            isinstance(config, PreferenceConfig) and config.method in WITH_REFERENCE and config.reference_draws is None
        )

    def noised(self, kinds: tuple[Kind, ...]) -> Noised:
        """What the denoiser is asked in a pass."""
        outline, batch = self.outline, self.batch
        shape = (batch.rows, self.channels, *batch.size)
        z, eps = outline.images(*shape), outline.images(*shape)
        t = self.model.schedule.at(0.5, batch.rows).to(outline.device)
        conditioning = outline.conditioning(batch.rows)
        return add_noise(self.model, z, eps, t, conditioning, kinds, self.pixel, None, batch.window)

    def answer(self, noised: Noised) -> Answer:
        """The denoiser's answer."""
        return ask(self.model, self.model.denoiser, noised)

    def loss(self, kinds: tuple[Kind, ...], noised: Noised, answer: Answer) -> Tensor:
        """The loss of a pass."""
        known: dict[Kind, Tensor] = {}
        if self.asks_reference:
            with torch.no_grad():
                known = errors(self.model, self.model.denoiser, noised, kinds, self.pixel)
        total = self.outline.images(1).sum()
        for kind, error in measure(self.model, answer, noised, kinds, self.pixel).items():
            if isinstance(self.config, PreferenceConfig):
                total = total + _preference(self.config, error, known.get(kind), answer)
            else:
                total = total + error.mean()
        return total

    @contextmanager
    def as_trained(self) -> Iterator[None]:
        """Precision and attention of the loop. Tensors without data are on the CPU, whose flash attention stands for
        that of CUDA: both keep the output and one number per query."""
        config, device = self.config, self.outline.device
        attention: AbstractContextManager[None] = fast_attention(device)
        if self.cuda and device.type == "cpu":
            attention = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
        dtype = torch.float16 if config.mixed_precision == "fp16" else torch.bfloat16
        with attention, torch.autocast(device.type, dtype, enabled=config.mixed_precision != "no"):
            yield


def _preference(config: PreferenceConfig, error: Tensor, known: Tensor | None, answer: Answer) -> Tensor:
    """What the preference losses have in common, as far as it costs anything."""
    if config.loser_safety is not None:
        torch.autograd.grad(error.sum(), answer.output, retain_graph=True)
    winner, loser = (error if known is None else error - known).chunk(2)
    return -torch.nn.functional.logsigmoid(loser - winner).mean()


def _batch(config: ObjectiveConfig, outline: Outline) -> Batch:
    model = outline.model
    factor = int(model.pipeline.vae_scale_factor)
    height, width = model.resolution if config.resolution is None else (config.resolution, config.resolution)
    if height % model.side_multiple or width % model.side_multiple:
        raise InputError(f"resolution must be a multiple of {model.side_multiple} for this model, got {height}x{width}")
    size = height // factor, width // factor
    rows = config.batch_size
    if isinstance(config, PreferenceConfig) or (isinstance(config, ImageToImageConfig) and config.detail_preserver):
        rows *= 2
    window = None
    if config.decode_crop is not None:
        if not 0 < config.decode_crop <= min(height, width) or config.decode_crop % factor:
            raise InputError(
                f"decode_crop is a multiple of {factor} up to {min(height, width)}, got {config.decode_crop}"
            )
        side = config.decode_crop // factor
        if (side, side) != size:
            window = Window(torch.zeros(rows, 2, dtype=torch.int64), (side, side), size, config.crop_border)
    return Batch(rows, size, window)


def _cheaper_decoder(config: ObjectiveConfig, model: LatentDiffusion) -> nn.Module | None:
    if config.tiny_decoder is not None:
        with torch.device("meta"):
            return TinyDecoder(AutoencoderTiny.from_config(read_json(config.tiny_decoder / "config.json")))
    return Bf16Decoder(model) if config.bf16_decoder else None


def _pixel(config: ObjectiveConfig, cheaper: nn.Module | None) -> PixelTerm:
    if config.pixel.distance == "decoder_features":
        return PixelTerm(config.pixel.argument, None)
    return PixelTerm(config.pixel.argument, DISTANCES.get(config.pixel.distance, pixel_sft), decode=cheaper)
