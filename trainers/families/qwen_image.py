"""Qwen-Image, behind ``QwenImagePipeline`` (arXiv 2508.02324)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.pipelines import prompt_length
from trainers.families.transformer import JOINT_ATTENTION, FlowTransformer, pack, unpack
from trainers.latent_diffusion import Conditioning


class QwenImage(FlowTransformer):
    """Qwen2.5-VL's hidden states of a templated prompt, with a mask; tokens of 2 x 2; a VAE for videos."""

    video_vae = True
    lora_targets = JOINT_ATTENTION

    def __init__(self, pipeline: Any) -> None:
        config = pipeline.transformer.config
        for name in ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"):
            if config.get(name, False):
                raise InputError(
                    f"the transformer has {name}=True, as distilled, edited or layered models do; "
                    "only the text-to-image model is supported"
                )
        last = f"transformer_blocks.{config.num_layers - 1}."
        # The last block changes the text, too, and nobody reads it.
        self.unused = (last + "attn.to_add_out", last + "txt_mlp")
        super().__init__(pipeline)

    @property
    def resolution(self) -> tuple[int, int]:
        side: int = self.pipeline.default_sample_size * self.pipeline.vae_scale_factor
        return side, side

    def _channels(self, pipeline: Any) -> tuple[int, int]:
        return int(pipeline.transformer.config.in_channels), 4 * int(pipeline.vae.config.z_dim)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        embeddings, mask = self.pipeline.encode_prompt(
            list(prompts), device=self.device, max_sequence_length=prompt_length(self.pipeline)
        )
        if mask is None:
            mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        return {"embeddings": embeddings.float(), "mask": mask}

    def predict(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        height, width = z_t.shape[2:]
        # Padding of the cache beyond the longest prompt here; where none is left, no mask, as in the stock pipeline.
        mask = conditioning["mask"]
        mask = mask[:, : int(mask.sum(1).max())]
        output: Tensor = denoiser(
            hidden_states=pack(z_t),
            timestep=t / 1000,
            encoder_hidden_states=conditioning["embeddings"][:, : mask.shape[1]],
            encoder_hidden_states_mask=None if bool(mask.all()) else mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(z_t),
            return_dict=False,
        )[0]
        return unpack(output, (height, width))
