"""MMDiT models behind ``StableDiffusion3Pipeline`` (arXiv 2403.03206): SD3 and SD3.5."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pixeval.pipelines import prompt_length
from trainers.families.transformer import JOINT_ATTENTION, FlowTransformer
from trainers.latent_diffusion import Conditioning


class StableDiffusion3(FlowTransformer):
    """Two CLIP encoders and T5 in one sequence; zeros in the place of T5 where it was left out."""

    lora_targets = JOINT_ATTENTION

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=prompt_length(self.pipeline),
        )
        return {"embeddings": embeddings.float(), "pooled": pooled.float()}

    def predict(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        output: Tensor = denoiser(
            hidden_states=z_t,
            timestep=t,
            encoder_hidden_states=conditioning["embeddings"],
            pooled_projections=conditioning["pooled"],
            return_dict=False,
        )[0]
        return output
