"""Z-Image, behind ``ZImagePipeline`` (arXiv 2511.22699).

It counts time from noise (0) to image (1) and predicts image minus noise; both are turned here into our convention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pixeval.pipelines import prompt_length
from trainers.families.transformer import FlowTransformer
from trainers.latent_diffusion import Conditioning


class ZImage(FlowTransformer):
    """Qwen3's hidden states of the prompt as a chat message; every sample a list entry of its own length."""

    patch = 2

    @property
    def resolution(self) -> tuple[int, int]:
        # Written in the stock pipeline's call, and in no configuration.
        return 1024, 1024

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        rows, _ = self.pipeline.encode_prompt(
            list(prompts),
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=prompt_length(self.pipeline),
        )
        mask = pad_sequence([torch.ones(len(row), dtype=torch.bool, device=row.device) for row in rows], True)
        return {"embeddings": pad_sequence(rows, True).float(), "mask": mask}

    def predict(self, z_t: Tensor, t: Tensor, conditioning: Conditioning, denoiser: nn.Module) -> Tensor:
        lengths = conditioning["mask"].sum(1).tolist()
        prompts = [row[:length] for row, length in zip(conditioning["embeddings"], lengths, strict=True)]
        frames: list[Tensor] = denoiser(
            list(z_t.unsqueeze(2).unbind(0)), (1000 - t.float()) / 1000, prompts, return_dict=False
        )[0]
        return -torch.stack(frames).squeeze(2)
