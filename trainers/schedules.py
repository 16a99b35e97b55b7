"""Noise schedules and parametrisations: everything a model may predict, brought to (eps_hat, x0_hat) in float32.

A noisy latent is ``z_t = a z + s eps``. Discrete diffusion has ``a = sqrt(alpha_bar_t)``, ``s = sqrt(1 - alpha_bar_t)``
(Ho et al., arXiv 2006.11239); flow matching has ``a = 1 - sigma``, ``s = sigma`` (Liu et al., arXiv 2209.03003).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from pixeval.errors import InputError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]


class Denoised(NamedTuple):
    """What a model says about a noisy latent; both float32 of the latent's shape."""

    eps: Tensor
    """Predicted noise."""
    x0: Tensor
    """Predicted clean latent."""


class NoiseSchedule(Protocol):
    """Times, and the (a, s) that belong to them. A time is what the model is given, of shape (N,)."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` training times, all noise levels, on the CPU."""
        ...

    def at(self, fraction: float, n: int) -> Tensor:
        """``n`` times at a fraction of the way from clean (0) to noise (1)."""
        ...

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s), float32 of shape (N, 1, 1, 1), on the device of ``t``."""
        ...

    def reversed(self, t: Tensor) -> Tensor:
        """The times as far from noise as ``t`` are from clean: what a model with the opposite convention expects."""
        ...


@dataclass(frozen=True)
class DiffusionSchedule:
    """Variance-preserving diffusion in discrete steps."""

    alphas_cumprod: Tensor
    """(T,), float32."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Uniform over the T steps, as the paper trains (arXiv 2409.17565: all t)."""
        return torch.randint(len(self.alphas_cumprod), (n,), generator=generator)

    def at(self, fraction: float, n: int) -> Tensor:
        return torch.full((n,), round(fraction * (len(self.alphas_cumprod) - 1)))

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def reversed(self, t: Tensor) -> Tensor:
        return len(self.alphas_cumprod) - 1 - t


@dataclass(frozen=True)
class FlowSchedule:
    """Rectified flow; a time is ``sigma * steps``."""

    steps: int
    shift: float
    """Moves times towards noise, as the sampler does: ``sigma = shift u / (1 + (shift - 1) u)`` (arXiv 2403.03206)."""
    terminal: float = 0.0
    """The lowest sigma that the sampler visits before 0, where its configuration names one (``shift_terminal``)."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Uniform over the times that the sampler visits."""
        return self._time(torch.rand(n, generator=generator))

    def at(self, fraction: float, n: int) -> Tensor:
        return self._time(torch.full((n,), fraction))

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = t.float().view(-1, 1, 1, 1) / self.steps
        return 1 - sigma, sigma

    def reversed(self, t: Tensor) -> Tensor:
        return self.steps - t

    def _time(self, u: Tensor) -> Tensor:
        sigma = self.shift * u / (1 + (self.shift - 1) * u)
        return (self.terminal + (1 - self.terminal) * sigma) * self.steps


def schedule_of(scheduler: Any, tokens: int) -> tuple[NoiseSchedule, Prediction]:
    """The training schedule and the parametrisation that a diffusers scheduler's configuration stands for.

    Args:
        scheduler: of a pipeline.
        tokens: length of the image's sequence, which a dynamic shift depends on.

    Raises:
        InputError: a parametrisation we do not know, or flow prediction without flow sigmas.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if name == "FlowMatchEulerDiscreteScheduler":
        if config.get("invert_sigmas"):
            raise InputError("scheduler FlowMatchEulerDiscreteScheduler has invert_sigmas=True, which is not supported")
        return _flow(config, config["shift"], tokens), "flow_prediction"
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in get_args(Prediction):
        raise InputError(
            f"scheduler {name} has prediction_type {prediction!r}; supported are {', '.join(get_args(Prediction))}"
        )
    if prediction == "flow_prediction":
        if not config.get("use_flow_sigmas", False):
            raise InputError(f"scheduler {name} predicts a flow but has use_flow_sigmas=False; set it to true")
        return _flow(config, config.get("flow_shift", 1.0), tokens), prediction
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(f"scheduler {name} has no alphas_cumprod; use a DDPM-style or a flow-sigma scheduler")
    return DiffusionSchedule(scheduler.alphas_cumprod.float().cpu()), prediction


def _flow(config: Any, shift: float, tokens: int) -> FlowSchedule:
    """With ``use_dynamic_shifting`` the shift is e^mu (or mu), mu linear in the number of tokens (FLUX.1, SD3.5)."""
    if config.get("use_dynamic_shifting", False):
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        mu = base + (top - base) / (high - low) * (tokens - low)
        shift = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
    return FlowSchedule(config["num_train_timesteps"], shift, config.get("shift_terminal") or 0.0)


def to_denoised(prediction: Prediction, output: Tensor, z_t: Tensor, a: Tensor, s: Tensor) -> Denoised:
    """Read a model's ``output`` at ``z_t``; the inverse of :func:`target`. All tensors float32."""
    if prediction == "epsilon":
        return Denoised(output, (z_t - s * output) / a)
    if prediction == "v_prediction":
        return Denoised(s * z_t + a * output, a * z_t - s * output)
    if prediction == "sample":
        return Denoised((z_t - a * output) / s, output)
    return Denoised(z_t + a * output, z_t - s * output)


def target(prediction: Prediction, z: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """What a perfect model of this parametrisation would output.

    ``v = a eps - s z`` is that of Salimans and Ho (arXiv 2202.00512); the flow is ``eps - z``.
    """
    if prediction == "epsilon":
        return eps
    if prediction == "v_prediction":
        return a * eps - s * z
    if prediction == "sample":
        return z
    return eps - z
