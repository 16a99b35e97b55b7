"""The bundled data and models: small, trained from scratch by ``trainers.pretrain``, described in ``README.md``."""

from pathlib import Path

ZOO = Path(__file__).parent
BUNDLED = {"zoo:unet": ZOO / "unet", "zoo:dit": ZOO / "dit"}
"""Names of the bundled pipelines: a noise-predicting U-Net and a flow-matching DiT, 128 px."""
CLIP = ZOO / "clip"
"""The bundled open_clip folder."""
QUALITY = ZOO / "quality"
"""Published parameters of NIQE and BRISQUE; origin and licence in its ``NOTICE.md``."""
