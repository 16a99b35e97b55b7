"""Tiny randomly initialised pipelines of SDXL and the flow-matching families, made from nothing but code, offline.

One tokenizer of whole words serves them all; it knows the captions, the words of the stock pipelines' own templates,
and the marks that T5, Gemma and Qwen put around a text.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tiny_models import CAPTIONS, CONTEXT, RESOLUTION, tiny_tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

CHANNELS = 4
WIDTH = 16
"""Of every text encoder."""
QWEN_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
MARKS = ["<pad>", "<bos>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]


def word_tokenizer(single: str, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Whole words, marks, punctuation and newlines.

    Args:
        single: what surrounds a text, ``$A``: ``<bos> $A`` for Gemma, ``$A </s>`` for T5, ``$A`` for Qwen.
        chat_template: in Jinja, for a model of chats.
    """
    instruction = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    words = re.findall(r"\w+|[^\w ]", " ".join([*CAPTIONS, QWEN_TEMPLATE, *instruction, "\n"]))
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*MARKS, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", behavior="removed"),
            pre_tokenizers.Split(Regex(r"\w+|[^\w ]"), behavior="isolated"),
        ]
    )
    marks = [(mark, vocabulary[mark]) for mark in ("<bos>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=2048,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=chat_template,
    )


def t5(width: int = WIDTH) -> dict[str, Any]:
    """Encoder and tokenizer."""
    tokenizer = word_tokenizer("$A </s>")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0,
        pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    return {"encoder": T5EncoderModel(config), "tokenizer": tokenizer}


def clip(projection: bool) -> dict[str, Any]:
    """Encoder, with a projection or not, and tokenizer."""
    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT, projection_dim=WIDTH, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    encoder = CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)
    return {"encoder": encoder, "tokenizer": tokenizer}


def gemma() -> dict[str, Any]:
    """Encoder and tokenizer."""
    tokenizer = word_tokenizer("<bos> $A")
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return {"text_encoder": Gemma2Model(config), "tokenizer": tokenizer}


def vae(levels: int = 2, **config: Any) -> AutoencoderKL:
    """2x in each direction for every level but the first."""
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        sample_size=RESOLUTION,
        **{"scaling_factor": 0.5, **config},
    )


def tiny_sdxl(playground: bool = False) -> StableDiffusionXLPipeline:
    """Euler's scheduler as SDXL has; latents with mean and std per channel as Playground v2.5 has, for the other."""
    first, second = clip(False), clip(True)
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 2, in_channels=CHANNELS, out_channels=CHANNELS, block_out_channels=(8, 16),
        layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=2 * WIDTH, attention_head_dim=2,
        norm_num_groups=4, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH, use_linear_projection=True,
    )  # fmt: skip
    noise: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    statistics = {"latents_mean": [-1.5, 0.3, 1.0, -0.2], "latents_std": [0.5, 2.0, 1.5, 0.8]} if playground else {}
    return StableDiffusionXLPipeline(
        vae=vae(**statistics),
        text_encoder=first["encoder"],
        text_encoder_2=second["encoder"],
        tokenizer=first["tokenizer"],
        tokenizer_2=second["tokenizer"],
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **noise)
        if playground
        else EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **noise),
    )


def tiny_sd3(with_t5: bool = True) -> StableDiffusion3Pipeline:
    """A static shift of 3, as SD3 and SD3.5 have."""
    # SD3 pads the two CLIP encoders, side by side, to the width of T5.
    first, second, third = clip(True), clip(True), t5(2 * WIDTH) if with_t5 else {"encoder": None, "tokenizer": None}
    transformer = SD3Transformer2DModel(
        sample_size=RESOLUTION // 2, patch_size=2, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=2 * WIDTH, caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH, pos_embed_max_size=16, qk_norm="rms_norm",
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=first["encoder"],
        tokenizer=first["tokenizer"],
        text_encoder_2=second["encoder"],
        tokenizer_2=second["tokenizer"],
        text_encoder_3=third["encoder"],
        tokenizer_3=third["tokenizer"],
    )


def tiny_flux(dev: bool = True) -> FluxPipeline:
    """dev: a guidance embedding and a shift by resolution; schnell: neither."""
    first, second = clip(False), t5()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4 * CHANNELS, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, guidance_embeds=dev,
        axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if dev else 1.0, use_dynamic_shifting=dev),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=first["encoder"],
        tokenizer=first["tokenizer"],
        text_encoder_2=second["encoder"],
        tokenizer_2=second["tokenizer"],
        transformer=transformer,
    )


def tiny_sana() -> SanaPipeline:
    """DPM-Solver++ on flow sigmas; an autoencoder without a distribution.

    The scheduler rounds times down to whole numbers; with a shift of 1, not Sana's 3, the first ones are whole.
    """
    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=1, num_attention_heads=2,
        attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8,
        caption_channels=WIDTH, sample_size=RESOLUTION // 2, timestep_scale=0.5,
    )  # fmt: skip
    autoencoder = AutoencoderDC(
        in_channels=3, latent_channels=CHANNELS, attention_head_dim=2, encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), downsample_block_type="conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, algorithm_type="dpmsolver++"
    )
    return SanaPipeline(vae=autoencoder, transformer=transformer, scheduler=scheduler, **gemma())


def tiny_lumina2() -> Lumina2Pipeline:
    """Its pipeline takes 8x in each direction for granted."""
    transformer = Lumina2Transformer2DModel(
        sample_size=RESOLUTION // 8, patch_size=2, in_channels=CHANNELS, hidden_size=8, num_layers=1,
        num_refiner_layers=1, num_attention_heads=1, num_kv_heads=1, multiple_of=2, axes_dim_rope=(4, 2, 2),
        axes_lens=(512, 16, 16), cap_feat_dim=WIDTH,
    )  # fmt: skip
    return Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=vae(4, shift_factor=0.1159),
        **gemma(),
    )


def tiny_z_image() -> ZImagePipeline:
    """Prompts of their own length, as chat messages."""
    tokenizer = word_tokenizer("$A", CHAT_TEMPLATE)
    text = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=CHANNELS, dim=16, n_layers=1, n_refiner_layers=1,
        n_heads=1, n_kv_heads=1, cap_feat_dim=WIDTH, axes_dims=[8, 4, 4], axes_lens=[128, 16, 16],
    )  # fmt: skip
    # They start uninitialised, which nothing notices in a trained model.
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=Qwen3Model(text),
        tokenizer=tokenizer,
        transformer=transformer,
    )


def tiny_qwen_image() -> QwenImagePipeline:
    """A shift by resolution with a terminal sigma, and a VAE for videos with mean and std per channel."""
    tokenizer = word_tokenizer("$A")
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    text = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 32, **heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH,
        },
    )  # fmt: skip
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=4 * CHANNELS, out_channels=CHANNELS, num_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=1.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift_terminal=0.02,
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=CHANNELS,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[-0.7571, -0.7089, 0.9653, 0.1075],
            latents_std=[2.8184, 1.4541, 0.7, 1.2],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(text),
        tokenizer=tokenizer,
        transformer=transformer,
    )


TINY_FLOW = {
    "sdxl": lambda: tiny_sdxl(),
    "sdxl-playground": lambda: tiny_sdxl(playground=True),
    "sd3": lambda: tiny_sd3(),
    "sd3-without-t5": lambda: tiny_sd3(with_t5=False),
    "flux-dev": lambda: tiny_flux(),
    "flux-schnell": lambda: tiny_flux(dev=False),
    "sana": lambda: tiny_sana(),
    "lumina2": lambda: tiny_lumina2(),
    "z-image": lambda: tiny_z_image(),
    "qwen-image": lambda: tiny_qwen_image(),
}
"""One tiny pipeline of every further kind that we train, by name."""


def save_tiny_flow(name: str, folder: Path) -> Path:
    """Save one of :data:`TINY_FLOW` in ``folder``; returns it."""
    torch.manual_seed(0)
    TINY_FLOW[name]().save_pretrained(folder)
    return folder
