"""FLUX.1 dev and schnell, behind ``FluxPipeline``."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pixeval.pipelines import prompt_length
from trainers.families.transformer import JOINT_ATTENTION, FlowTransformer, pack, unpack
from trainers.latent_diffusion import Conditioning


class Flux(FlowTransformer):
    """T5 and a pooled CLIP embedding; latents in tokens of 2 x 2; a time from 0 to 1."""

    guidance: ClassVar[float] = 1.0
    """What FLUX.1-dev, distilled from guidance, is told in training. At 1 the flow it was distilled to is the one that
    the data define; the target of a higher scale is another flow, that of the guided teacher."""
    patch = 2
    lora_targets = JOINT_ATTENTION

    @property
    def resolution(self) -> tuple[int, int]:
        side: int = self.pipeline.default_sample_size * self.pipeline.vae_scale_factor
        return side, side

    def _channels(self, pipeline: Any) -> tuple[int, int]:
        return int(pipeline.transformer.config.in_channels), 4 * int(pipeline.vae.config.latent_channels)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        embeddings, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, max_sequence_length=prompt_length(self.pipeline)
        )
        return {"embeddings": embeddings.float(), "pooled": pooled.float()}

    def predict(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        height, width = z_t.shape[2:]
        guided = self.pipeline.transformer.config.guidance_embeds
        output: Tensor = denoiser(
            hidden_states=pack(z_t),
            timestep=t / 1000,
            guidance=torch.full_like(t, self.guidance) if guided else None,
            pooled_projections=conditioning["pooled"],
            encoder_hidden_states=conditioning["embeddings"],
            txt_ids=z_t.new_zeros(conditioning["embeddings"].shape[1], 3),
            img_ids=_positions(height // 2, width // 2, z_t),
            return_dict=False,
        )[0]
        return unpack(output, (height, width))


def _positions(height: int, width: int, like: Tensor) -> Tensor:
    """(0, row, column) of every token, (height * width) x 3."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3).to(like)
