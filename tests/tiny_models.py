"""Tiny randomly initialised pipelines of the supported classes, made from nothing but code, offline.

The tokenizer is trained on the spot, so that even the vocabulary needs no file.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from trainers.errors import Answer, Noised, ask
from trainers.latent_diffusion import Conditioning, LatentDiffusion

CAPTIONS = ["a red apple", "a blue car", "a green tree", "a yellow star", "two cats", "a house in the snow"]
CONTEXT = 16
RESOLUTION = 32
CHANNELS = 4


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE tokenizer with start and end marks, of 16 tokens at most."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(CAPTIONS, BpeTrainer(vocab_size=120, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def tiny_vae() -> AutoencoderKL:
    """Two levels, 2x in each direction, four latent channels."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        sample_size=RESOLUTION,
        scaling_factor=0.5,
    )


def tiny_stable_diffusion(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    """A U-Net pipeline for 32 px, 16 x 16 latents."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_pixart(
    prediction_type: str = "flow_prediction", sigma: bool = False, learned_variance: bool = False, sized: bool = False
) -> Any:
    """A DiT pipeline for 32 px, 16 x 16 latents in 2 x 2 patches.

    sized: it is told size and aspect of the image, as the stock pipeline does where ``sample_size`` is 128.
    """
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    heads = 3 if sized else 2  # embeddings of height, width and aspect lie side by side
    text = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0,
        pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    transformer = PixArtTransformer2DModel(
        sample_size=128 if sized else RESOLUTION // 2,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS * 2 if learned_variance else CHANNELS,
        num_layers=1,
        num_attention_heads=heads,
        attention_head_dim=8,
        cross_attention_dim=8 * heads,
        caption_channels=16,
        use_additional_conditions=sized,
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type=prediction_type, use_flow_sigmas=prediction_type == "flow_prediction"
    )
    kind = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return kind(
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(text),
        vae=tiny_vae(),
        transformer=transformer,
        scheduler=scheduler,
    )


TINY = {
    "sd-epsilon": lambda: tiny_stable_diffusion("epsilon"),
    "sd-v": lambda: tiny_stable_diffusion("v_prediction"),
    "sd-x0": lambda: tiny_stable_diffusion("sample"),
    "pixart-flow": lambda: tiny_pixart("flow_prediction"),
    "pixart-epsilon": lambda: tiny_pixart("epsilon", learned_variance=True),
    "pixart-sigma": lambda: tiny_pixart("epsilon", sigma=True, learned_variance=True),
    "pixart-sized": lambda: tiny_pixart("epsilon", sized=True),
}
"""One tiny pipeline of every kind that we train, by name."""


def save_tiny(name: str, folder: Path) -> Path:
    """Save one of :data:`TINY` in ``folder``; returns it."""
    TINY[name]().save_pretrained(folder)
    return folder


def denoised(model: LatentDiffusion, z_t: Tensor, t: Tensor, conditioning: Conditioning) -> Answer:
    """What training reads off a model at noisy latents: its output, eps_hat and x0_hat."""
    s = model.coefficients(t)[1]
    return ask(model, model.denoiser, Noised(z_t, t, s, torch.zeros_like(z_t), conditioning, None))


def first_order(pipeline: Any) -> Any:
    """The pipeline with DPM-Solver++, where it has that, of first order: every step is one of DDIM."""
    if isinstance(pipeline.scheduler, DPMSolverMultistepScheduler):
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, solver_order=1)
    return pipeline
