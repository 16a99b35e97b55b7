"""Between images and the latents a denoiser sees: the frozen VAE, and how its latents are normalised.

``z = (x - mean) * scale / std`` for a VAE's latent x, with mean and std per channel. Stable Diffusion, PixArt and Sana
have a scale only; SD3, FLUX.1, Lumina2 and Z-Image a scale and one mean (``shift_factor``); Playground v2.5 a scale and
a mean and std per channel; Qwen-Image a mean and std per channel, and a VAE for videos, given here one frame.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Channels = float | tuple[float, ...]
"""One number for all channels, or one for each."""


class Posterior(NamedTuple):
    """A Gaussian over normalised latents, N x C x h x w, float32."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """A latent for standard normal ``noise``."""
        return self.mean + self.std * noise

    def rows(self, index: Tensor) -> "Posterior":
        """Some of the N."""
        return Posterior(self.mean[index], self.std[index])


@dataclass(frozen=True)
class Normalisation:
    """``z = (x - mean) * scale / std``, and back, in float32; x and z are N x C x h x w."""

    scale: float = 1.0
    mean: Channels = 0.0
    std: Channels = 1.0

    def normalise(self, x: Tensor) -> Tensor:
        """The VAE's latents -> the denoiser's."""
        return self.spread(x.float() - _of(self.mean, x))

    def spread(self, x: Tensor) -> Tensor:
        """A standard deviation of the VAE's latents -> of the denoiser's."""
        return x.float() * self.scale / _of(self.std, x)

    def denormalise(self, z: Tensor) -> Tensor:
        """The denoiser's latents -> the VAE's."""
        return z.float() * _of(self.std, z) / self.scale + _of(self.mean, z)


def normalisation_of(config: Any) -> Normalisation:
    """What a VAE's configuration says: ``scaling_factor``, ``shift_factor``, ``latents_mean`` and ``latents_std``.

    A mean and std per channel take the place of the shift, as in the stock pipelines.
    """
    scale = float(config.get("scaling_factor") or 1.0)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return Normalisation(scale, tuple(mean), tuple(std))
    return Normalisation(scale, float(config.get("shift_factor") or 0.0))


def encode(vae: nn.Module, normalisation: Normalisation, images: Tensor, video: bool = False) -> Posterior:
    """Images in model range, N x 3 x H x W in [-1, 1] -> latents as the denoiser sees them, in float32.

    An autoencoder without a distribution (DC-AE) gives a standard deviation of zero.

    Args:
        vae: frozen, of diffusers.
        normalisation: of its latents.
        images: on the VAE's device.
        video: the VAE takes N x 3 x frames x H x W.
    """
    with torch.autocast(images.device.type, enabled=False):
        if video:
            output = vae.encode(images.unsqueeze(2))  # type: ignore[operator]
        else:
            output = vae.encode(images.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
    found = getattr(output, "latent_dist", None)
    mean, std = (output.latent, torch.zeros_like(output.latent)) if found is None else (found.mean, found.std)
    if video:
        mean, std = mean.squeeze(2), std.squeeze(2)
    return Posterior(normalisation.normalise(mean), normalisation.spread(std))


def decode(vae: nn.Module, normalisation: Normalisation, latents: Tensor, video: bool = False) -> Tensor:
    """Latents -> images in model range, about [-1, 1], not clamped; differentiable, float32.

    Computed in the precision of the VAE's weights, whatever autocast says.
    """
    x = normalisation.denormalise(latents).to(next(vae.parameters()).dtype)
    with torch.autocast(latents.device.type, enabled=False):
        if video:
            frames: Tensor = vae.decode(x.unsqueeze(2), return_dict=False)[0]  # type: ignore[operator]
            return frames.squeeze(2).float()
        x = x.contiguous(memory_format=torch.channels_last)
        images: Tensor = vae.decode(x, return_dict=False)[0]  # type: ignore[operator]
    return images.float()


def _of(value: Channels, like: Tensor) -> Tensor | float:
    if isinstance(value, float):
        return value
    return torch.tensor(value, dtype=torch.float32, device=like.device).view(-1, 1, 1)
