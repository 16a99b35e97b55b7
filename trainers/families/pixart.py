"""DiT models behind ``PixArtAlphaPipeline`` and ``PixArtSigmaPipeline`` (arXiv 2310.00426, 2403.04692).

Trained by epsilon prediction, or by flow matching when the scheduler says ``prediction_type="flow_prediction"``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.pipelines import prompt_length
from trainers.latent_diffusion import Conditioning, LatentDiffusion


class PixArt(LatentDiffusion):
    """Cross-attention on the masked hidden states of a T5 encoder; a learned variance is left out of the loss."""

    backbone = "dit"
    denoiser_name = "transformer"

    def __init__(self, pipeline: Any) -> None:
        dit, vae = pipeline.transformer.config, pipeline.vae.config
        if dit.in_channels != vae.latent_channels:
            raise InputError(
                f"the transformer takes {dit.in_channels} channels and the VAE gives {vae.latent_channels}: "
                "image-conditioned models are not supported"
            )
        super().__init__(pipeline)
        self.sized = bool(pipeline.transformer.use_additional_conditions)
        self.channels: int = dit.in_channels

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        # As pixeval.pipelines generates: no cleaning, and no padding beyond what the tokenizer was made for.
        embeddings, mask, _, _ = self.pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            device=self.device,
            clean_caption=False,
            max_sequence_length=prompt_length(self.pipeline),
        )
        return {"embeddings": embeddings.float(), "mask": mask}

    def predict(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        output: Tensor = denoiser(
            z_t,
            encoder_hidden_states=conditioning["embeddings"],
            encoder_attention_mask=conditioning["mask"],
            timestep=t,
            added_cond_kwargs=self._size(z_t),
            return_dict=False,
        )[0]
        return output[:, : self.channels]

    def _size(self, z_t: Tensor) -> dict[str, Tensor | None]:
        if not self.sized:
            return {"resolution": None, "aspect_ratio": None}
        height, width = (side * self.pipeline.vae_scale_factor for side in z_t.shape[2:])
        rows = z_t.shape[0]
        return {
            "resolution": torch.tensor([[height, width]], dtype=z_t.dtype, device=z_t.device).expand(rows, -1),
            "aspect_ratio": torch.tensor([[height / width]], dtype=z_t.dtype, device=z_t.device).expand(rows, -1),
        }
