"""U-Net models behind ``StableDiffusionXLPipeline`` (arXiv 2307.01952): SDXL and its fine-tunes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from trainers.families.stable_diffusion import check_unet
from trainers.latent_diffusion import Conditioning, LatentDiffusion


class StableDiffusionXL(LatentDiffusion):
    """Two text encoders, a pooled embedding, and the image's size as a condition.

    The size given is that of the training image, uncropped, as the stock pipeline gives it: what is learned is learned
    where it will be sampled. The refiner, with one text encoder and an aesthetic score, is another model.
    """

    backbone = "unet"
    denoiser_name = "unet"

    def __init__(self, pipeline: Any) -> None:
        check_unet(pipeline)
        if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
            raise InputError("this SDXL model has one text encoder, as the refiner; only the base can be trained")
        config = pipeline.unet.config
        width = 6 * config.addition_time_embed_dim + pipeline.text_encoder_2.config.projection_dim
        if config.projection_class_embeddings_input_dim != width:
            raise InputError(
                f"the U-Net's added embedding has {config.projection_class_embeddings_input_dim} numbers instead of "
                f"{width} (pooled text and six of size): the refiner and its like are not supported"
            )
        super().__init__(pipeline)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if self.pipeline.config.force_zeros_for_empty_prompt:
            # What the stock pipeline takes for no prompt, in guidance; the caption dropout trains just that.
            given = torch.tensor([float(bool(prompt)) for prompt in prompts], device=embeddings.device)
            embeddings, pooled = embeddings * given[:, None, None], pooled * given[:, None]
        return {"embeddings": embeddings.float(), "pooled": pooled.float()}

    def predict(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        height, width = (side * self.pipeline.vae_scale_factor for side in z_t.shape[2:])
        # Original size, left and top of the crop, target size.
        size = z_t.new_tensor([[height, width, 0, 0, height, width]]).expand(len(z_t), -1)
        output: Tensor = denoiser(
            z_t,
            t,
            encoder_hidden_states=conditioning["embeddings"],
            added_cond_kwargs={"text_embeds": conditioning["pooled"], "time_ids": size},
            return_dict=False,
        )[0]
        return output
