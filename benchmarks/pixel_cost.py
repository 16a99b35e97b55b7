"""What the pixel term costs in latent steps of the same model, on the bundled models, the cases taken in turn.

    python benchmarks/pixel_cost.py [--model zoo:unet] [--rounds 10] --out work/pixel-cost.json

All cases live in one process, each with its own copy of the model, and every round makes some steps of each, one case
after the other: what the machine does for a while falls on all of them alike, and yet a step finds its own model in the
caches. A round's time of a case is the median of its steps but the first ones, a ratio that of one round's times;
reported are its median over the rounds and the quartiles. "As diffusers upsamples" is the window of a quarter without
``trainers.folded_upsampling``. Prints a Markdown table.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from train_plan import configuration, write_data

QUARTER: dict[str, Any] = {"objective": "both", "decode_crop": 64}
UNFOLDED = "window of a quarter, as diffusers upsamples"
CASES: dict[str, dict[str, Any]] = {
    "latent": {"objective": "latent"},
    "window of a quarter": QUARTER,
    UNFOLDED: QUARTER,
    "window of a quarter, bf16_decoder": {**QUARTER, "bf16_decoder": True},
    "window of a quarter, every 2nd step": {**QUARTER, "pixel_every": 2},
    "whole image": {"objective": "both"},
}
BLOCK, WARM = 10, 2
"""Steps of a case in a round, and how many of them do not count; nor does the first round."""


def stepper(model: Path, case: str, data: Path) -> Callable[[int], None]:
    """A function that makes a step of a case, given its number."""
    import torch

    from trainers.data import captioned_latents
    from trainers.optimizer_step import optimizer_step
    from trainers.sft import sft_loss
    from trainers.start import start

    config = replace(configuration(str(model), CASES[case], data, "cpu"), model=model)
    begun = start(config, "sft", captioned_latents)
    if case == UNFOLDED:
        for layer in begun.model.vae.modules():
            if hasattr(layer, "folded_kernel"):
                del layer.forward
    denoiser = begun.model.denoiser.train()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-6)
    wrapped, wrapped_optimizer = begun.accelerator.prepare(denoiser, optimizer)
    loss = sft_loss(begun.model, begun.data, config, begun.composition)

    def step(number: int) -> None:
        optimizer_step(wrapped, wrapped_optimizer, loss, config, number, begun.accelerator)

    return step


def measure(model: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of every case in every round."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_data(data)
        steps = {case: stepper(model, case, data) for case in CASES}
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    for number in range(1 + rounds):
        for case, step in steps.items():
            every = CASES[case].get("pixel_every", 1)
            taken = []
            for place in range(BLOCK // every):
                begun = time.perf_counter()
                for part in range(every):
                    step(BLOCK * number + every * place + part)
                taken.append((time.perf_counter() - begun) / every)
            seconds[case].append(statistics.median(taken[WARM // every :]))
    return {case: found[1:] for case, found in seconds.items()}


def table(seconds: dict[str, list[float]]) -> str:
    """Medians, and ratios to the latent step of the same round, as Markdown."""
    lines = ["| case | ms per step, median | of a latent step, median | quartiles |", "|---|---|---|---|"]
    latent = np.array(seconds["latent"])
    for case, found in seconds.items():
        low, middle, high = np.quantile(np.array(found) / latent, [0.25, 0.5, 0.75])
        lines.append(f"| {case} | {1000 * np.median(found):.0f} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo:unet")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("work/pixel-cost.json"))
    options = parser.parse_args()
    from pixeval.pipelines import resolve_model

    seconds = measure(Path(str(resolve_model(options.model))), options.rounds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"cores": os.cpu_count(), "seconds": seconds}, indent=1) + "\n")
    print(table(seconds))


if __name__ == "__main__":
    main()
