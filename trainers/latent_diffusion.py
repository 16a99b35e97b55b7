"""One shape for every U-Net and DiT: what the losses and the loop see of a text-to-image model.

A family (``trainers/families/``) says how its prompts are encoded and its denoiser is called. The arithmetic of
noise and parametrisations is shared, so that it cannot differ between families.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from trainers.checkpoint import write_directory
from trainers.folded_upsampling import fold_upsampling
from trainers.latents import Normalisation, Posterior, decode, encode, normalisation_of
from trainers.lora import adapted, add_adapters, merged, present, save_adapters
from trainers.pipeline_folder import write_pipeline
from trainers.schedules import schedule_of

Conditioning = dict[str, Tensor]
"""Everything the denoiser is given about the text; the first axis of each tensor is the sample."""


class LatentDiffusion(ABC):
    """A diffusers pipeline as a trainable model. Only the denoiser learns; VAE and text encoders are frozen.

    The frozen VAE passes gradients to its input, but none of its parameters ever requires one: diffusion losses
    that reach the VAE collapse it (REPA-E, arXiv 2504.10483).
    """

    backbone: ClassVar[Literal["unet", "dit"]]
    denoiser_name: ClassVar[str]
    """The pipeline's attribute and folder of the denoiser."""
    video_vae: ClassVar[bool] = False
    """The VAE takes and gives N x C x frames x H x W; we give it one frame."""
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that get adapters unless others are named: the projections of every attention."""
    unused: tuple[str, ...] = ()
    """Parts of the denoiser, by the beginning of their names, whose output it throws away. They get no gradient, which
    processes that train together would wait for."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.folder: Path | None = None
        """Where the pipeline was loaded from; checkpoints take its frozen parts from there."""
        self.vae: nn.Module = pipeline.vae
        self.normalisation = self._normalisation()
        height, width = self.resolution
        factor = pipeline.vae_scale_factor
        self.schedule, self.prediction = schedule_of(
            pipeline.scheduler, self.tokens((height // factor, width // factor))
        )
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        if isinstance(self.vae, AutoencoderKL):
            fold_upsampling(self.vae.decoder)
        if not self.video_vae:
            self.vae.to(memory_format=torch.channels_last)
        self.denoiser.requires_grad_(True)
        self._freeze_unused()

    @property
    def denoiser(self) -> nn.Module:
        """The module that learns."""
        module: nn.Module = getattr(self.pipeline, self.denoiser_name)
        return module

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width in pixels that the model was made for."""
        size = self.pipeline.components[self.denoiser_name].config.sample_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return height * self.pipeline.vae_scale_factor, width * self.pipeline.vae_scale_factor

    @property
    def patch(self) -> int:
        """Side of the denoiser's tokens in latent pixels; 1 for a U-Net."""
        return int(self.pipeline.components[self.denoiser_name].config.get("patch_size") or 1)

    @property
    def side_multiple(self) -> int:
        """Pixels that height and width of an image must be a multiple of."""
        return int(self.pipeline.vae_scale_factor) * self.patch

    def tokens(self, latent_size: tuple[int, int]) -> int:
        """Length of the sequence that a dynamic shift of the times depends on, for latents h x w."""
        return (latent_size[0] // self.patch) * (latent_size[1] // self.patch)

    def to(self, device: torch.device) -> Self:
        """Move every part to ``device``."""
        self.pipeline.to(device)
        return self

    def adapt(self, rank: int, alpha: float | None, targets: tuple[str, ...], seed: int) -> None:
        """Freeze the denoiser and let low-rank adapters learn in its place (LoRA).

        Args:
            rank: of the adapters.
            alpha: they are scaled by ``alpha / rank``; None for 1.
            targets: layers that get one; none for those of :attr:`lora_targets` that there are.
            seed: of their first weights.

        Raises:
            InputError: a setting that cannot work, or a target that is no layer.
        """
        add_adapters(self.denoiser, rank, alpha, targets or present(self.denoiser, self.lora_targets), seed)
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        for name, parameter in self.denoiser.named_parameters():
            if name.startswith(self.unused):
                parameter.requires_grad_(False)

    def release_text_encoders(self) -> None:
        """Move the text encoders to the CPU, once every prompt is encoded."""
        for name, part in self.pipeline.components.items():
            if name.startswith("text_encoder") and part is not None:
                part.to("cpu")

    @torch.no_grad()
    def encode(self, images: Tensor) -> Posterior:
        """Images in model range, N x 3 x H x W in [-1, 1] -> latents as the denoiser sees them."""
        return encode(self.vae, self.normalisation, images.to(self.device), self.video_vae)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> images in model range, about [-1, 1], not clamped; differentiable, always in float32."""
        return decode(self.vae, self.normalisation, latents, self.video_vae)

    def _normalisation(self) -> Normalisation:
        return normalisation_of(self.pipeline.vae.config)

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> what the stock pipeline would give its denoiser, without gradients."""

    @abstractmethod
    def predict(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        """The output of ``denoiser`` (ours, its wrapped form, or a frozen copy) in the parametrisation ``prediction``.

        Where a family counts time the other way or negates its output, that is undone here and nowhere else.
        """

    def sample_timesteps(
        self, n: int, generator: torch.Generator, latent_size: tuple[int, int] | None = None
    ) -> Tensor:
        """``n`` training times over all noise levels, on the CPU.

        Args:
            n: how many.
            generator: of the draws.
            latent_size: (h, w) of the latents they are for, which matters where a flow's shift depends on resolution;
                None for the model's own resolution.
        """
        if latent_size is None:
            return self.schedule.sample(n, generator)
        return schedule_of(self.pipeline.scheduler, self.tokens(latent_size))[0].sample(n, generator)

    def coefficients(self, t: Tensor, rank: int = 4) -> tuple[Tensor, Tensor]:
        """(a, s) of ``z_t = a z + s eps``, float32, N x 1 x ... of ``rank`` axes."""
        a, s = self.schedule.coefficients(t)
        shape = (-1, *(1,) * (rank - 1))
        return a.view(shape), s.view(shape)

    def add_noise(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """``a z + s eps`` in float32."""
        a, s = self.coefficients(t, z.dim())
        return a * z.float() + s * eps.float()

    def save_pipeline(self, path: Path, denoiser: nn.Module | None = None) -> None:
        """Write, atomically, a complete pipeline that stock ``DiffusionPipeline.from_pretrained`` loads.

        Adapters are merged into the weights, and saved beside them as well (see :mod:`trainers.lora`).

        Args:
            path: replaced as a whole.
            denoiser: saved in the place of our own (an average of weights, for example).
        """
        saved = self.denoiser if denoiser is None else denoiser

        def write(folder: Path) -> None:
            with merged(saved):
                write_pipeline(folder, self.pipeline, self.denoiser_name, saved, self.folder)
            if adapted(saved):
                save_adapters(self.pipeline, self.denoiser_name, saved, folder)

        write_directory(path, write)
