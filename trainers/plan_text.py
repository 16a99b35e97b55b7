"""The plan of a training run as text for a terminal."""

import math
from typing import Any


def render(found: dict[str, Any]) -> str:
    """What :func:`trainers.plan.plan` found, as text for a terminal."""
    memory, flops, seconds = found["memory"], found["flops"], found["seconds"]
    height, width = found["image"]
    millions = [found["parameters"][part] / 1e6 for part in ("denoiser", "trained")]
    lines = [
        f"{found['model']}: {found['family']}, {millions[0]:,.1f} M parameters, {millions[1]:,.1f} M of them trained",
        f"{found['latents_per_pass']} latents of {height} x {width} px per pass, {found['passes_per_step']} passes per "
        f"step, {found['precision']}, {found['device']}, prompts of {found['prompt_tokens']} tokens",
        "",
        "memory",
        *(_line(name, _size(value)) for name, value in memory.items() if value),
        _line("peak", _size(found["peak_memory"])),
        _line("peak of a latent step", _size(found["peak_of_a_latent_step"])),
    ]
    if found["decoder_activations"]:
        lines += ["", "activations of the decoder, forward and backward"]
        lines += [_line(name, _size(value)) for name, value in found["decoder_activations"].items()]
    lines += [
        "",
        "per step",
        _line("arithmetic", f"{flops['step'] / 1e12:10,.3f} TFLOP, latent only {flops['latent_step'] / 1e12:,.3f}"),
        _line("estimated time", f"{_time(seconds['step'])}, latent only {_time(seconds['latent_step']).strip()}"),
        _line("in latent steps", f"{found['latent_steps_per_step']:10.2f}"),
        _line("throughput", f"  {found['throughput']}"),
    ]
    return "\n".join(lines)


def _line(name: str, value: str) -> str:
    return f"  {name.replace('_', ' '):28}{value}"


def _size(count: int) -> str:
    return f"{count / 2**30:10.2f} GiB" if count >= 2**30 else f"{count / 2**20:10.1f} MiB"


def _time(seconds: float) -> str:
    return f"{seconds:10.2f} s" if seconds >= 1 or not math.isfinite(seconds) else f"{1000 * seconds:10.0f} ms"
