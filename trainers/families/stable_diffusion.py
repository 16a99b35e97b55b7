"""U-Net models behind ``StableDiffusionPipeline``: Stable Diffusion 1.x, 2.x (v-prediction) and their fine-tunes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from trainers.latent_diffusion import Conditioning, LatentDiffusion


class StableDiffusion(LatentDiffusion):
    """Cross-attention on the hidden states of one text encoder; epsilon, v or x0 by the scheduler's configuration."""

    backbone = "unet"
    denoiser_name = "unet"

    def __init__(self, pipeline: Any) -> None:
        check_unet(pipeline)
        super().__init__(pipeline)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        embeddings, _ = self.pipeline.encode_prompt(
            list(prompts), self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"embeddings": embeddings.float()}

    def predict(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        output: Tensor = denoiser(z_t, t, encoder_hidden_states=conditioning["embeddings"], return_dict=False)[0]
        return output


def check_unet(pipeline: Any) -> None:
    """See that a U-Net makes images from text alone.

    Raises:
        InputError: it takes further channels, or a guidance embedding.
    """
    unet, vae = pipeline.unet.config, pipeline.vae.config
    if unet.in_channels != vae.latent_channels:
        raise InputError(
            f"the U-Net takes {unet.in_channels} channels and the VAE gives {vae.latent_channels}: "
            "inpainting and image-conditioned models are not supported"
        )
    if unet.time_cond_proj_dim is not None:
        raise InputError("the U-Net expects a guidance embedding (a distilled model); that is not supported")
