"""Perceptual distances of image pairs on the features of ImageNet networks, from local safetensors files."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.weight_files import digest, read_weights

CHANNELS = {"alex": [64, 192, 384, 256, 256], "vgg": [64, 128, 256, 512, 512]}
"""Widths of the five feature maps that LPIPS compares."""


class Lpips:
    """Learned perceptual image patch similarity (Zhang et al. 2018), torchmetrics' network. From 0, lower is better.

    Args:
        weights: safetensors file of the whole network, AlexNet or VGG-16 with its heads; see ``docs/metrics.md``.
    """

    def __init__(self, weights: str) -> None:
        from torchmetrics.functional.image.lpips import _LPIPS

        tensors = read_weights(weights, "lpips")
        widths = [tensors[f"lin{i}.model.1.weight"].shape[1] for i in range(5) if f"lin{i}.model.1.weight" in tensors]
        kind = next((name for name, channels in CHANNELS.items() if channels == widths), None)
        if kind is None:
            raise InputError(
                f"{weights} holds no LPIPS network: there must be lin0.model.1.weight to lin4.model.1.weight"
            )
        self._net = _LPIPS(pretrained=False, net=kind, pnet_rand=True)
        # the heads stand in the network twice, under two names
        both = {**tensors, **{f"lins.{n[3:]}": t for n, t in tensors.items() if n.startswith("lin") and n[3] != "s"}}
        fill(self._net, both, weights, "lpips")
        self.fingerprint = f"lpips/1/{kind}-{digest(tensors)}"

    def to(self, device: str) -> "Lpips":
        """Move the network; returns itself."""
        self._net.to(device)
        return self

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        found: Tensor = self._net(images.float(), references.float(), normalize=True)
        return found.flatten()


class Dists:
    """Deep image structure and texture similarity (Ding et al. 2020). In [0, 1], lower is better.

    Args:
        weights: safetensors file of torchmetrics' ``DISTSNetwork``, VGG-16 with alpha and beta; see
            ``docs/metrics.md``.
    """

    def __init__(self, weights: str) -> None:
        tensors = read_weights(weights, "dists")
        self._net = _DistsNetwork()
        fill(self._net, tensors, weights, "dists")
        self.fingerprint = f"dists/1/{digest(tensors)}"

    def to(self, device: str) -> "Dists":
        """Move the network; returns itself."""
        self._net.to(device)
        return self

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        found: Tensor = self._net(images.float(), references.float())
        return found


class _DistsNetwork(nn.Module):
    """VGG-16 with L2 pooling; parameters are named as in torchmetrics, which can only build it with a download."""

    stages = ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))
    channels: ClassVar = [3, 64, 128, 256, 512, 512]
    alpha: Tensor
    beta: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        from torchmetrics.functional.image.dists import L2pooling
        from torchvision.models import vgg16  # type: ignore[import-untyped]

        super().__init__()
        layers = vgg16(weights=None).features
        for number, (start, end) in enumerate(self.stages):
            stage = nn.Sequential()
            for place in range(start, end):
                pooled = place == start and number > 0
                stage.add_module(str(place), L2pooling(channels=self.channels[number]) if pooled else layers[place])
            self.add_module(f"stage{number + 1}", stage)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        for name in ("alpha", "beta"):
            self.register_parameter(name, nn.Parameter(torch.zeros(1, sum(self.channels), 1, 1)))

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        total = self.alpha.sum() + self.beta.sum()
        parts = zip(
            self._maps(images),
            self._maps(references),
            torch.split(self.alpha / total, self.channels, 1),
            torch.split(self.beta / total, self.channels, 1),
            strict=True,
        )
        similarity = images.new_zeros(len(images))
        for x, y, alpha, beta in parts:
            mean, mean_r = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
            variance, variance_r = (x - mean).square().mean((2, 3)), (y - mean_r).square().mean((2, 3))
            covariance = (x * y).mean((2, 3)) - (mean * mean_r)[..., 0, 0]
            texture = (2 * mean * mean_r + 1e-6) / (mean.square() + mean_r.square() + 1e-6)
            structure = (2 * covariance + 1e-6) / (variance + variance_r + 1e-6)
            similarity = similarity + (alpha * texture).sum((1, 2, 3)) + (beta[..., 0, 0] * structure).sum(1)
        return 1 - similarity

    def _maps(self, images: Tensor) -> list[Tensor]:
        found = [images]
        values = (images - self.mean) / self.std
        for number in range(len(self.stages)):
            values = self.get_submodule(f"stage{number + 1}")(values)
            found.append(values)
        return found


def fill(net: nn.Module, tensors: dict[str, Tensor], path: str, metric: str) -> None:
    """Load, freeze, and raise an InputError that names ``path`` where the tensors are not those of ``net``."""
    try:
        missing, _ = net.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise InputError(f"{path} does not fit {metric}: {str(error).splitlines()[-1].strip()}") from error
    if missing:
        raise InputError(f"{path} lacks {len(missing)} tensors of {metric}, the first is {missing[0]}")
    net.eval().requires_grad_(False)
