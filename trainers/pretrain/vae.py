"""Train the zoo's VAE: a stock ``AutoencoderKL``, 8x in each direction, 12 latent channels.

The loss is L1 + 10 L2 + gradient L1 in [0, 1] pixel units, plus a small KL. For the first 40 % of the
schedule the encoder is also pulled towards the principal components of 8x8 patches: that linear code
alone reconstructs unseen icons at 26.8 dB (12 components), so the decoder has useful latents from the start.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from pixeval.zoo.icons import load_icons
from trainers.pretrain.fit import Fit, fit

PATCH = 8


def build_vae(channels: int = 12) -> AutoencoderKL:
    """The architecture, randomly initialised (2.8 M parameters)."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.0,
    )


@dataclass(frozen=True)
class PatchCode:
    """A linear code of 8x8 RGB patches with components scaled half-way to unit variance."""

    mean: Tensor
    projection: Tensor

    @classmethod
    def of(cls, images: Tensor, channels: int) -> "PatchCode":
        """Principal components of N x 3 x H x W images."""
        patches = _patches(images).flatten(0, 2)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((patches - mean).double().T))
        deviations = values.flip(0)[:channels].sqrt()
        scaled = vectors.flip(1)[:, :channels] / deviations.sqrt()
        return cls(mean, (scaled / deviations.mean().sqrt()).float())

    def __call__(self, images: Tensor) -> Tensor:
        """N x 3 x H x W -> N x channels x H/8 x W/8."""
        return ((_patches(images) - self.mean) @ self.projection).permute(0, 3, 1, 2)


def _patches(images: Tensor) -> Tensor:
    n, c, h, w = images.shape
    grid = images.reshape(n, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, shift by up to 6 px on white, and sometimes permute the colour channels; images in [-1, 1]."""
    out = []
    for image in F.pad(images, (6, 6, 6, 6), value=1.0):
        flip, permute = torch.rand(2, generator=generator)
        y, x = torch.randint(0, 13, (2,), generator=generator).tolist()
        image = image[:, y : y + images.shape[2], x : x + images.shape[3]]
        if flip < 0.5:
            image = image.flip(2)
        if permute < 0.25:
            image = image[torch.randperm(3, generator=generator)]
        out.append(image)
    return torch.stack(out)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + 10 L2 + L1 of the image gradients, in [0, 1] pixel units."""
    error = (output - target) / 2
    gradients = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 10 * error.square().mean() + 0.5 * gradients


def train_vae(settings: Fit, batch: int = 16, device: str = "cpu") -> AutoencoderKL:
    """Train and return the averaged model."""
    torch.manual_seed(settings.seed)
    images = torch.from_numpy(load_icons("train").images).permute(0, 3, 1, 2)
    vae = build_vae().to(device, memory_format=torch.channels_last)
    code = PatchCode.of(_signed(images[:: len(images) // 500]), vae.config.latent_channels)

    def loss(generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        rows = torch.randint(len(images), (batch,), generator=generator)
        clean = augment(_signed(images[rows]), generator)
        target = clean.to(device).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(target).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        noise = torch.randn(mean.shape, generator=generator).to(device)
        output = vae.decode(mean + std * noise).sample.float()
        reconstruction = reconstruction_loss(output, target)
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
        guide = (mean - code(clean).to(device)).square().mean()
        guide_weight = 0.3 * max(0.0, 1 - progress / 0.4)
        return {
            "loss": reconstruction + 2e-3 * kl + guide_weight * guide,
            "reconstruction": reconstruction,
            "psnr": -10 * ((output - target) / 2).square().mean((1, 2, 3)).log10().mean(),
            "kl": kl,
            "guide": guide,
        }

    average = fit(vae, loss, settings)
    set_scaling_factor(average, images[::4])
    return average


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, images: Tensor) -> None:
    """Set ``config.scaling_factor`` to 1/std of the latents, as Rombach et al. (2112.10752) do."""
    device = next(vae.parameters()).device
    latents = [vae.encode(_signed(chunk).to(device)).latent_dist.mean for chunk in torch.split(images, 32)]
    vae.register_to_config(scaling_factor=round(1 / float(torch.cat(latents).std()), 4))


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """PSNR in dB of each uint8 N x 3 x H x W image through encode (mean) and decode, 8-bit rounding included."""
    device = next(vae.parameters()).device
    values = []
    for chunk in torch.split(images, 16):
        output = vae.decode(vae.encode(_signed(chunk).to(device)).latent_dist.mean).sample
        restored = ((output.clamp(-1, 1) + 1) * 127.5).round().cpu()
        values.append(-10 * ((restored - chunk) / 255).square().mean((1, 2, 3)).log10())
    return torch.cat(values)


def _signed(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def save_vae(vae: AutoencoderKL, folder: Path) -> None:
    """Write fp16 safetensors in the stock diffusers layout."""
    vae.half().save_pretrained(folder)
