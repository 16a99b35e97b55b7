"""Train the zoo's two latent diffusion models from scratch, each with its own small text encoder.

The U-Net predicts noise on the SD schedule (2112.10752), weighted by min-SNR 5 (2303.09556). The DiT
(PixArt blocks, 2310.00426) predicts the flow eps - z with logit-normal times (2403.03206). Latents are
cached; captions are dropped in 10 % of the cases for classifier-free guidance.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

from pixeval.zoo.icons import load_icons
from trainers.pretrain.fit import Fit, fit
from trainers.pretrain.vocabulary import CONTEXT

WIDTH = 128
"""Width of both text encoders."""
DROPOUT = 0.1


@dataclass(frozen=True)
class Cache:
    """What training reads: scaled latents (mean and deviation) and caption tokens, the empty caption last."""

    mean: Tensor
    std: Tensor
    ids: Tensor
    mask: Tensor

    def draw(self, batch: int, generator: torch.Generator, device: str) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, token ids and token mask of a random batch, captions partly dropped."""
        rows = torch.randint(len(self.mean), (batch,), generator=generator)
        latents = self.mean[rows] + self.std[rows] * torch.randn(self.mean[rows].shape, generator=generator)
        kept = torch.rand(batch, generator=generator) >= DROPOUT
        captions = torch.where(kept, rows, torch.full_like(rows, len(self.mean)))
        return latents.to(device), self.ids[captions].to(device), self.mask[captions].to(device)


@torch.no_grad()
def build_cache(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> Cache:
    """Encode the training icons and captions once."""
    icons = load_icons("train")
    device = next(vae.parameters()).device
    images = torch.from_numpy(icons.images).permute(0, 3, 1, 2)
    posteriors = [vae.encode(c.to(device).float() / 127.5 - 1).latent_dist for c in torch.split(images, 32)]
    scale = vae.config.scaling_factor
    tokens = tokenizer([*icons.captions, ""], padding="max_length", truncation=True, return_tensors="pt")
    return Cache(
        torch.cat([p.mean.cpu() for p in posteriors]) * scale,
        torch.cat([p.std.cpu() for p in posteriors]) * scale,
        tokens.input_ids,
        tokens.attention_mask,
    )


def build_unet(channels: int) -> UNet2DConditionModel:
    """7.6 M parameters; 16 x 16 latents, attention at 8 x 8 and 4 x 4 (at 16 x 16 it would double the time)."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_dit(channels: int) -> PixArtTransformer2DModel:
    """7 M parameters; 64 tokens of 2 x 2 latents."""
    return PixArtTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=channels,
        out_channels=channels,
        num_layers=6,
        num_attention_heads=8,
        attention_head_dim=32,
        cross_attention_dim=256,
        caption_channels=WIDTH,
        use_additional_conditions=False,
    )


def build_clip_text(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The U-Net's text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=WIDTH,
        )
    )


def build_t5_text(tokenizer: CLIPTokenizer) -> T5EncoderModel:
    """The DiT's text encoder."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=WIDTH,
            d_kv=32,
            d_ff=4 * WIDTH,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def train_unet(settings: Fit, zoo: Path, batch: int, device: str, warm: bool = False) -> None:
    """Train and write ``zoo/unet``; ``warm`` starts from the weights that are there."""
    torch.manual_seed(settings.seed)
    vae, tokenizer = _frozen(zoo, device)
    cache = build_cache(vae, tokenizer)
    schedule = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    alphas = DDPMScheduler(**schedule).alphas_cumprod.float()
    unet = build_unet(vae.config.latent_channels).to(device, memory_format=torch.channels_last)
    both = nn.ModuleDict({"denoiser": unet, "text": build_clip_text(tokenizer).to(device)})
    if warm:
        shipped = StableDiffusionPipeline.from_pretrained(zoo / "unet", dtype=torch.float32)
        unet.load_state_dict(shipped.unet.state_dict())
        both["text"].load_state_dict(shipped.text_encoder.state_dict())

    def loss(generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        latents, ids, _ = cache.draw(batch, generator, device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        steps = torch.randint(1000, (batch,), generator=generator)
        a = alphas[steps].to(device)[:, None, None, None]
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        text = both["text"](ids).last_hidden_state
        predicted = both["denoiser"](noisy, steps.to(device), text).sample.float()
        error = (predicted - noise).square().mean((1, 2, 3))
        snr = (a / (1 - a)).flatten()
        return {"loss": (error * snr.clamp(max=5) / snr).mean(), "mse": error.mean()}

    average = fit(both, loss, settings)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=average["text"],
        tokenizer=tokenizer,
        unet=average["denoiser"],
        scheduler=DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    _save(pipeline, zoo / "unet")


def train_dit(settings: Fit, zoo: Path, batch: int, device: str, warm: bool = False) -> None:
    """Train and write ``zoo/dit``; ``warm`` starts from the weights that are there."""
    torch.manual_seed(settings.seed)
    vae, tokenizer = _frozen(zoo, device)
    cache = build_cache(vae, tokenizer)
    longest = int(cache.mask.sum(1).max())  # padding is masked out, so it need not be computed
    cache = replace(cache, ids=cache.ids[:, :longest], mask=cache.mask[:, :longest])
    dit = build_dit(vae.config.latent_channels).to(device)
    both = nn.ModuleDict({"denoiser": dit, "text": build_t5_text(tokenizer).to(device)})
    if warm:
        shipped = PixArtAlphaPipeline.from_pretrained(zoo / "dit", dtype=torch.float32)
        dit.load_state_dict(shipped.transformer.state_dict())
        both["text"].load_state_dict(shipped.text_encoder.state_dict())

    def loss(generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        latents, ids, mask = cache.draw(batch, generator, device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        sigma = torch.sigmoid(torch.randn(batch, generator=generator)).to(device)
        s = sigma[:, None, None, None]
        text = both["text"](ids, attention_mask=mask)[0]
        predicted = both["denoiser"](
            (1 - s) * latents + s * noise,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=sigma * 1000,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample.float()
        return {"loss": (predicted - (noise - latents)).square().mean()}

    average = fit(both, loss, settings)
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, num_train_timesteps=1000
    )
    pipeline = PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=average["text"],
        vae=vae,
        transformer=average["denoiser"],
        scheduler=scheduler,
    )
    _save(pipeline, zoo / "dit")


def _frozen(zoo: Path, device: str) -> tuple[AutoencoderKL, CLIPTokenizer]:
    vae = AutoencoderKL.from_pretrained(zoo / "unet" / "vae", dtype=torch.float32).to(device)
    return vae.eval().requires_grad_(False), CLIPTokenizer.from_pretrained(zoo / "clip")


def _save(pipeline: StableDiffusionPipeline | PixArtAlphaPipeline, folder: Path) -> None:
    pipeline.to("cpu", torch.float16).save_pretrained(folder, safe_serialization=True)
    # transformers would load the text encoder in the stored precision, diffusers loads the rest in float32.
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    # Where the VAE lay when it was loaded is nobody's business.
    config = folder / "vae" / "config.json"
    kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    config.write_text(json.dumps(kept, indent=2) + "\n")
