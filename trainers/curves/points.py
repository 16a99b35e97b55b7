"""What is trained for the curves: one point is one objective on one model, trained once for every seed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pixeval.zoo import BUNDLED
from trainers.balance import BalanceConfig
from trainers.objective import PixelConfig

Trainer = Literal["sft", "simpo", "dpo"]


@dataclass(frozen=True)
class Study:
    """How much is measured; the defaults are those of the page."""

    models: Mapping[str, Path] = field(default_factory=lambda: {k.removeprefix("zoo:"): p for k, p in BUNDLED.items()})
    """Pipeline folders by the name of the backbone; the curves are of unet, dit has that of lambda only."""
    seeds: int = 3
    steps: int = 40
    """Of SFT; of pairs four fifths as many."""
    batch_size: int = 4
    learning_rate: float = 5e-5
    """Of SFT."""
    pair_learning_rate: float = 1e-5
    """At that of SFT every beta raised the held-out winners' latent error by 86 % or more."""
    icons: int = 128
    """Tuned on, as images or as pairs."""
    held_out: int = 24
    """Icons that errors are measured on, and captions that images are made for."""
    held_out_pairs: int = 16
    sampler_steps: int = 15


@dataclass(frozen=True)
class Point:
    """One objective."""

    name: str
    settings: Mapping[str, Any]
    trainer: Trainer = "sft"
    backbone: str = "unet"
    longer: float = 1.0
    """Times as many steps as the other points, for equal compute."""
    generate: bool = False
    """Images are made and scored, too."""

    def key(self, seed: int) -> str:
        """In ``numbers.json``, and the folder of the run."""
        return f"{self.backbone}/{self.trainer}/{self.name}/{seed}"


BALANCE: Mapping[str, Any] = {"pixel_weight": "balance", "balance": BalanceConfig(batches=8)}
CROPS = (88, 64, 32)
"""Sides of windows of half, a quarter and a sixteenth of 128 x 128 pixels."""
LONGER: Mapping[str, float] = {"latent, 4 times the steps": 4.0, "window 64, twice the steps": 2.0}
"""About the compute of whole images: see docs/experiments/training_cost.md."""
BETAS: Mapping[Trainer, tuple[float, ...]] = {"simpo": (2.0, 20.0, 200.0), "dpo": (100.0, 1000.0, 10000.0)}
X0 = PixelConfig(argument="x0")


def sft_points() -> Iterator[Point]:
    """lambda, the failure of (8), windows, and equal compute, on the U-Net."""
    yield Point("latent", {"objective": "latent"}, generate=True)
    yield Point("both balance", {"objective": "both", **BALANCE}, generate=True)
    yield Point("both 2", {"objective": "both", "pixel_weight": 2.0}, generate=True)
    yield Point("pixel", {"objective": "pixel"}, generate=True)
    yield Point("x0 pixel", {"objective": "pixel", "pixel": X0}, generate=True)
    yield Point("x0 both 2", {"objective": "both", "pixel": X0, "pixel_weight": 2.0}, generate=True)
    yield Point("x0 both balance", {"objective": "both", "pixel": X0, **BALANCE}, generate=True)
    yield Point("control balance", {"objective": "control", **BALANCE}, generate=True)
    yield Point("control 2", {"objective": "control", "pixel_weight": 2.0})
    for weight in (20.0, 100.0):
        yield Point(f"both {weight:g}", {"objective": "both", "pixel_weight": weight})
    for side in CROPS:
        yield Point(f"window {side}", {"objective": "both", "decode_crop": side, **BALANCE})
    yield Point("latent, 4 times the steps", {"objective": "latent"}, longer=4.0, generate=True)
    yield Point("window 64, twice the steps", {"objective": "both", "decode_crop": 64, **BALANCE}, longer=2.0)


def pair_points() -> Iterator[Point]:
    """beta of SimPO and DPO in latent space, with the loser held back, and with the pixel term on windows, balanced."""
    for trainer, betas in BETAS.items():
        middle = betas[1]
        for beta in betas:
            yield Point(f"latent {beta:g}", {"objective": "latent", "beta": beta}, trainer)
        settings = {"objective": "latent", "beta": middle, "loser_safety": 0.5}
        yield Point(f"latent {middle:g}, loser_safety 0.5", settings, trainer)
        for beta in betas[1:]:
            settings = {"objective": "both", "beta": beta, "decode_crop": 64, **BALANCE}
            yield Point(f"both {beta:g}", settings, trainer)


def dit_points() -> Iterator[Point]:
    """lambda on the DiT."""
    for name, settings, generate in (
        ("latent", {"objective": "latent"}, True),
        ("both balance", {"objective": "both", **BALANCE}, True),
        ("pixel", {"objective": "pixel"}, True),
        ("control balance", {"objective": "control", **BALANCE}, True),
        ("both 8", {"objective": "both", "pixel_weight": 8.0}, False),
        ("both 80", {"objective": "both", "pixel_weight": 80.0}, False),
    ):
        yield Point(name, settings, backbone="dit", generate=generate)


def all_points() -> list[Point]:
    """In the order in which they are measured."""
    return [*sft_points(), *pair_points(), *dit_points()]
