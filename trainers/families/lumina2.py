"""Lumina-Image 2.0, behind ``Lumina2Pipeline`` (arXiv 2503.21758).

It counts time from noise (0) to image (1) and predicts image minus noise; both are turned here into our convention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pixeval.pipelines import prompt_length
from trainers.families.transformer import FlowTransformer
from trainers.latent_diffusion import Conditioning


class Lumina2(FlowTransformer):
    """Gemma's hidden states of a system prompt and the prompt, with a mask."""

    def tokens(self, latent_size: tuple[int, int]) -> int:
        # The stock pipeline reads the length off latents that are not packed, and gets their channels.
        return int(self.pipeline.transformer.config.in_channels)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        length = prompt_length(self.pipeline)
        embeddings, mask, _, _ = self.pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=self.device, max_sequence_length=length
        )
        empty = [i for i, prompt in enumerate(prompts) if not prompt]
        if empty:
            # Without the system prompt, as the stock pipeline encodes the empty prompt for guidance.
            _, _, embeddings_of_nothing, mask_of_nothing = self.pipeline.encode_prompt(
                "", do_classifier_free_guidance=True, device=self.device, max_sequence_length=length
            )
            embeddings[empty], mask[empty] = embeddings_of_nothing, mask_of_nothing
        return {"embeddings": embeddings.float(), "mask": mask}

    def predict(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        output: Tensor = denoiser(
            hidden_states=z_t,
            timestep=1 - t / 1000,
            encoder_hidden_states=conditioning["embeddings"],
            encoder_attention_mask=conditioning["mask"],
            return_dict=False,
        )[0]
        return -output
