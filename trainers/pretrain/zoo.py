"""The commands behind ``python -m trainers.pretrain``: what is trained, for how long, and where it goes.

Each command continues where it was stopped, and ends by exporting fp16 weights in stock layout to the zoo.
"""

from dataclasses import dataclass
from pathlib import Path

from trainers.pretrain.fit import Fit

ZOO = Path(__file__).resolve().parents[2] / "pixeval" / "zoo"
WORK = Path("work") / "pretrain"


@dataclass(frozen=True)
class Common:
    """What every training command takes."""

    steps: int
    batch: int
    learning_rate: float
    device: str = "cpu"
    bf16: bool = True
    work: Path = WORK
    """Where resumable states and logs are kept."""
    zoo: Path = ZOO
    """Where the finished model is written."""

    def fit(self, name: str, **changes: float) -> Fit:
        """The settings of one run."""
        return Fit(self.work / name, self.steps, self.learning_rate, bf16=self.bf16, **changes)  # type: ignore[arg-type]


def vae(steps: int = 1100, batch: int = 16, learning_rate: float = 1.5e-3, device: str = "cpu") -> None:
    """The autoencoder; first, because everything else is trained on its latents."""
    from trainers.pretrain.vae import save_vae, train_vae

    settings = Common(steps, batch, learning_rate, device)
    save_vae(train_vae(settings.fit("vae"), batch, device), ZOO / "unet" / "vae")


def clip(steps: int = 700, batch: int = 256, learning_rate: float = 1e-3, device: str = "cpu") -> None:
    """The CLIP that ranks captions; needs the VAE."""
    from diffusers import AutoencoderKL

    from trainers.pretrain.clip import save_clip, train_clip

    settings = Common(steps, batch, learning_rate, device)
    autoencoder = AutoencoderKL.from_pretrained(ZOO / "unet" / "vae")
    save_clip(*train_clip(settings.fit("clip", ema=0.995, weight_decay=0.1), autoencoder, batch, device), ZOO / "clip")


def unet(
    steps: int = 4000, batch: int = 64, learning_rate: float = 8e-4, device: str = "cpu", warm: bool = False
) -> None:
    """The noise-predicting U-Net (a ``StableDiffusionPipeline``); needs the VAE and CLIP's tokenizer.

    Args:
        warm: start from the shipped weights when there is no state to continue.
    """
    from trainers.pretrain.denoiser import train_unet

    train_unet(Common(steps, batch, learning_rate, device).fit("unet"), ZOO, batch, device, warm)


def dit(
    steps: int = 4000, batch: int = 64, learning_rate: float = 8e-4, device: str = "cpu", warm: bool = False
) -> None:
    """The flow-matching DiT (a ``PixArtAlphaPipeline``); needs the VAE and CLIP's tokenizer.

    Args:
        warm: start from the shipped weights when there is no state to continue.
    """
    from trainers.pretrain.denoiser import train_dit

    train_dit(Common(steps, batch, learning_rate, device).fit("dit"), ZOO, batch, device, warm)


def warp(
    steps: int = 2400,
    batch: int = 8,
    learning_rate: float = 2e-3,
    device: str = "cpu",
    bf16: bool = False,
    work: Path = WORK,
    zoo: Path = ZOO,
) -> None:
    """The detector of local warps behind ``warp_flaw``; needs none of the others."""
    from trainers.pretrain.warp import save_warp, train_warp

    settings = Common(steps, batch, learning_rate, device, bf16, work, zoo)
    print(save_warp(train_warp(settings.fit("warp"), batch, device), zoo / "warp"))


def measure(device: str = "cpu", captions: int = 100, seed: int = 0) -> None:
    """Print every figure of the model cards, and write them with sample grids to the zoo."""
    from trainers.pretrain.measure import measure_zoo

    measure_zoo(ZOO, device, captions, seed)
