"""Linear-attention models behind ``SanaPipeline`` (arXiv 2410.10629)."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.pipelines import prompt_length
from trainers.families.transformer import FlowTransformer
from trainers.latent_diffusion import Conditioning


class Sana(FlowTransformer):
    """Gemma's hidden states of an instruction and the prompt; a deterministic autoencoder, 32x in each direction."""

    def __init__(self, pipeline: Any) -> None:
        if pipeline.transformer.config.guidance_embeds:
            raise InputError("the transformer expects a guidance embedding (Sana-Sprint); that is not supported")
        super().__init__(pipeline)
        self.channels: int = pipeline.transformer.config.in_channels

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        call = inspect.signature(type(self.pipeline).__call__).parameters
        found = []
        for prompt in prompts:
            # The empty prompt comes without the instruction, as the stock pipeline encodes it for guidance.
            instruction = call["complex_human_instruction"].default if prompt else None
            found.append(
                self.pipeline.encode_prompt(
                    [prompt],
                    do_classifier_free_guidance=False,
                    device=self.device,
                    clean_caption=False,
                    max_sequence_length=prompt_length(self.pipeline),
                    complex_human_instruction=instruction,
                )
            )
        embeddings, mask = (torch.cat([row[i] for row in found]) for i in (0, 1))
        return {"embeddings": embeddings.float(), "mask": mask}

    def predict(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        output: Tensor = denoiser(
            z_t,
            encoder_hidden_states=conditioning["embeddings"],
            encoder_attention_mask=conditioning["mask"],
            timestep=t * self.pipeline.transformer.config.timestep_scale,
            return_dict=False,
        )[0]
        return output[:, : self.channels]
