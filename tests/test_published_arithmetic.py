"""The arithmetic of every adapter of a published model, by hand in float64 from the published formula.

Weights are tiny, random and of the published architecture and file layout. Encoders are the libraries' own, at float64;
what an adapter makes of them (normalised pixels, projections, unit features, scale, layers of a head, softmax) is
written out here. MPS, whose grounding is the adapter's own, is in ``test_mps.py``.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tiny_published as tiny
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tiny_clip import write_tiny_clip
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    Blip2ForConditionalGeneration,
    CLIPModel,
    LlavaForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

from pixeval.catalog import find, load
from pixeval.encoders import ClipEncoder

Array = NDArray[np.float64]
ByHand = Callable[[Path, Tensor, Sequence[str]], Array]

PROMPTS = ("a red apple", "a blue car", "a red apple")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HPS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"width": 32, "heads": 2, "layers": 1},
}
LATER_HEAD = {0: (16, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}
"""Of LAION's second predictor; in between are dropouts, and no activations."""


def normalised(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    return (images - images.new_tensor(mean).view(3, 1, 1)) / images.new_tensor(std).view(3, 1, 1)


def unit(features: Array) -> Array:
    return features / np.sqrt((features**2).sum(1, keepdims=True))


def softmax(logits: Array) -> Array:
    power = np.exp(logits - logits.max())
    return power / power.sum()


def doubles(file: Path) -> dict[str, Tensor]:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in load_file(file).items()}


@torch.no_grad()
def pickscore(folder: Path, images: Tensor, prompts: Sequence[str]) -> Array:
    """exp(s) cos(image, prompt), s the model's own logit scale."""
    model, tokenizer = CLIPModel.from_pretrained(folder).double().eval(), AutoTokenizer.from_pretrained(folder)
    seen = model.vision_model(pixel_values=normalised(images)).pooler_output.numpy()
    tokens = [tokenizer(prompt, return_tensors="pt").input_ids for prompt in prompts]
    read = np.concatenate([model.text_model(ids).pooler_output.numpy() for ids in tokens])
    sides = seen @ model.visual_projection.weight.numpy().T, read @ model.text_projection.weight.numpy().T
    return math.exp(float(model.logit_scale)) * (unit(sides[0]) * unit(sides[1])).sum(1)


def write_hps(folder: Path) -> Path:
    torch.manual_seed(0)
    folder.mkdir()
    save_file(open_clip.CLIP(**HPS).state_dict(), folder / "hps.safetensors")
    return folder / "hps.safetensors"


@torch.no_grad()
def hps(file: Path, images: Tensor, prompts: Sequence[str]) -> Array:
    """100 cos(image, prompt), the image padded to a square with black before it is normalised."""
    model = open_clip.CLIP(**HPS).double().eval()
    model.load_state_dict(doubles(file))
    square = torch.zeros(len(images), 3, 32, 32, dtype=torch.float64)
    square[..., 6:26] = images
    tokens = open_clip.get_tokenizer("ViT-H-14")(list(prompts))
    sides = model.encode_image(normalised(square)).numpy(), model.encode_text(tokens).numpy()
    return 100 * (unit(sides[0]) * unit(sides[1])).sum(1)


def write_laion(folder: Path, shapes: dict[int, tuple[int, int]]) -> Path:
    """The head beside its CLIP; with one layer it is the first predictor, whose tensors have no number."""
    write_tiny_clip(folder)
    generator = torch.Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for place, (into, out) in shapes.items():
        name = "" if len(shapes) == 1 else f"layers.{place}."
        tensors[f"{name}weight"] = torch.randn(out, into, generator=generator) / into**0.5
        tensors[f"{name}bias"] = torch.randn(out, generator=generator)
    save_file(tensors, folder / "head.safetensors")
    return folder / "head.safetensors"


@torch.no_grad()
def clip_features(folder: Path, images: Tensor) -> tuple[Array, Any]:
    """Unit features of images at the CLIP's own size, and the encoder at float64."""
    encoder = ClipEncoder.load(str(folder))
    encoder.model.double()
    pixels = normalised(images, (0.5, 0.4, 0.6), (0.5, 0.3, 0.4))
    return unit(encoder.model.encode_image(pixels).numpy()), encoder  # type: ignore[operator]


def laion_aesthetic(file: Path, images: Tensor, prompts: Sequence[str]) -> Array:
    """Linear maps, one after the other, on the unit feature."""
    x, own = clip_features(file.parent, images)[0], {name: t.numpy() for name, t in doubles(file).items()}
    for name in sorted(name.removesuffix("weight") for name in own if name.endswith("weight")):
        x = x @ own[f"{name}weight"].T + own[f"{name}bias"]
    return x[:, 0]


@torch.no_grad()
def clip_iqa(folder: Path, images: Tensor, prompts: Sequence[str]) -> Array:
    """The softmax of exp(s) cos over the two opposite texts."""
    seen, encoder = clip_features(folder, images)
    texts = unit(encoder.model.encode_text(encoder.tokenizer(["Good photo.", "Bad photo."])).numpy())
    scale = math.exp(float(encoder.model.logit_scale))
    return np.array([softmax(scale * texts @ row)[0] for row in seen])


@torch.no_grad()
def vqa_decoder(folder: Path, images: Tensor, prompts: Sequence[str]) -> Array:
    """The share of "Yes" in the softmax over the vocabulary, at the last place of the question in the chat."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).double().eval()
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for image, prompt in zip(images, prompts, strict=True):
        # 16 patches of 8 pixels stand for the image
        text = f'USER: {"<image>" * 16} Does this figure show "{prompt}"? Please answer yes or no. ASSISTANT:'
        inputs = {**tokenizer(text, return_tensors="pt"), "pixel_values": normalised(image)[None]}
        last = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1].numpy()
        found.append(softmax(model.lm_head.weight.numpy() @ last)[tokenizer.convert_tokens_to_ids("Yes")])
    return np.array(found)


@torch.no_grad()
def vqa_encoder(folder: Path, images: Tensor, prompts: Sequence[str]) -> Array:
    """The same at the first place of T5's answer, whose logits share the words' vectors and are scaled."""
    model = Blip2ForConditionalGeneration.from_pretrained(folder).double().eval()
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for image, prompt in zip(images, prompts, strict=True):
        text = f'Question: Does this figure show "{prompt}"? Please answer yes or no. Answer:'
        words = tokenizer(text, return_tensors="pt").input_ids
        # four queries stand for the image, before all words
        marks = torch.full((1, 4), tokenizer.convert_tokens_to_ids("<image>"))
        inputs = {"input_ids": torch.cat((marks, words), 1), "pixel_values": normalised(image)[None]}
        start = torch.zeros(1, 1, dtype=torch.long)
        answer = model(**inputs, decoder_input_ids=start, output_hidden_states=True).language_model_outputs
        last = answer.decoder_hidden_states[-1][0, 0].numpy()
        head = model.language_model.lm_head.weight.numpy()
        scale = 32**-0.5 if model.language_model.config.tie_word_embeddings else 1.0
        found.append(softmax(scale * head @ last)[tokenizer.convert_tokens_to_ids("Yes")])
    return np.array(found)


@torch.no_grad()
def hps_v3(folder: Path, images: Tensor, prompts: Sequence[str]) -> Array:
    """Three linear maps with ReLU between them at the reward token; the first of their two numbers."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder).double().eval()
    processor = Qwen2VLProcessor.from_pretrained(folder)
    own = {name: t.numpy() for name, t in doubles(folder / "model.safetensors").items() if name.startswith("rm_head")}
    found = []
    for image, prompt in zip(images, prompts, strict=True):
        text = (
            f"USER: <|vision_start|><|image_pad|><|vision_end|>does this figure show {prompt} ? <|Reward|> ASSISTANT:"
        )
        inputs = processor(images=[(image * 255).round().byte()], text=[text], return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].double()
        running = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)
        states = model(**inputs, position_ids=running, output_hidden_states=True).hidden_states[-1]
        place = inputs["input_ids"][0].tolist().index(processor.tokenizer.convert_tokens_to_ids("<|Reward|>"))
        x = states[0, place].numpy()
        for layer in ("0", "3"):
            x = np.maximum(own[f"rm_head.{layer}.weight"] @ x + own[f"rm_head.{layer}.bias"], 0)
        found.append((own["rm_head.5.weight"] @ x + own["rm_head.5.bias"])[0])
    return np.array(found)


def image_reward(file: Path, images: Tensor, prompts: Sequence[str]) -> Array:
    """BLIP's text encoder, which looks at the image; five linear maps at its first token; then standardised."""
    tensors, tokenizer = doubles(file), BertTokenizer.from_pretrained(file.parent)
    tokens = tokenizer(list(prompts), padding="max_length", max_length=35, return_tensors="pt")
    seen = blip_vision(tensors, normalised(images))
    hidden = blip_text(tensors, tokens.input_ids, tokens.attention_mask, seen)[:, 0]
    for place in (0, 2, 4, 6, 7):
        hidden = linear(tensors, f"mlp.layers.{place}", hidden)
    return (hidden[:, 0].numpy() - 0.16717362830052426) / 1.0333394966054072


def linear(tensors: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def norm(tensors: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    unit = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return unit * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Heads of 64, written out."""
    parts = []
    for head in range(query.shape[-1] // 64):
        own = slice(64 * head, 64 * head + 64)
        logits = query[..., own] @ key[..., own].transpose(1, 2) / math.sqrt(64)
        logits = logits if mask is None else logits - 10000.0 * (1 - mask[:, None])
        parts.append(logits.softmax(-1) @ value[..., own])
    return torch.cat(parts, -1)


def blip_vision(tensors: dict[str, Tensor], pixels: Tensor) -> Tensor:
    own = "blip.visual_encoder"
    weight, bias = tensors[f"{own}.patch_embed.proj.weight"], tensors[f"{own}.patch_embed.proj.bias"]
    patches = F.conv2d(pixels, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([tensors[f"{own}.cls_token"].expand(len(pixels), -1, -1), patches], 1) + tensors[f"{own}.pos_embed"]
    for block in (f"{own}.blocks.{i}" for i in range(2)):
        query, key, value = linear(tensors, f"{block}.attn.qkv", norm(tensors, f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(tensors, f"{block}.attn.proj", attend(query, key, value))
        inner = F.gelu(linear(tensors, f"{block}.mlp.fc1", norm(tensors, f"{block}.norm2", x, 1e-6)))
        x = x + linear(tensors, f"{block}.mlp.fc2", inner)
    return norm(tensors, f"{own}.norm", x, 1e-6)


def blip_text(tensors: dict[str, Tensor], tokens: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
    own = "blip.text_encoder"
    words = tensors[f"{own}.embeddings.word_embeddings.weight"][tokens]
    places = tensors[f"{own}.embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = norm(tensors, f"{own}.embeddings.LayerNorm", words + places, 1e-12)
    for layer in (f"{own}.encoder.layer.{i}" for i in range(2)):
        for kind, context, shown in (("attention", x, mask), ("crossattention", patches, None)):
            context = x if kind == "attention" else context
            query = linear(tensors, f"{layer}.{kind}.self.query", x)
            key, value = (linear(tensors, f"{layer}.{kind}.self.{part}", context) for part in ("key", "value"))
            mixed = linear(tensors, f"{layer}.{kind}.output.dense", attend(query, key, value, shown))
            x = norm(tensors, f"{layer}.{kind}.output.LayerNorm", mixed + x, 1e-12)
        inner = F.gelu(linear(tensors, f"{layer}.intermediate.dense", x))
        x = norm(tensors, f"{layer}.output.LayerNorm", linear(tensors, f"{layer}.output.dense", inner) + x, 1e-12)
    return x


ADAPTERS: dict[str, tuple[str, Callable[[Path], Path], ByHand, tuple[int, int]]] = {
    "pickscore": ("pickscore", tiny.write_clip, pickscore, (32, 32)),
    "hpsv2": ("hpsv2", write_hps, hps, (32, 20)),
    "hpsv2_1": ("hpsv2_1", write_hps, hps, (32, 20)),
    "hpsv3": ("hpsv3", tiny.write_hps_v3, hps_v3, (448, 448)),
    "image_reward": ("image_reward", tiny.write_image_reward, image_reward, (32, 32)),
    "laion_aesthetic, first": (
        "laion_aesthetic",
        lambda folder: write_laion(folder, {0: (16, 1)}),
        laion_aesthetic,
        (32, 32),
    ),
    "laion_aesthetic, later": (
        "laion_aesthetic",
        lambda folder: write_laion(folder, LATER_HEAD),
        laion_aesthetic,
        (32, 32),
    ),
    "clip_iqa": ("clip_iqa", write_tiny_clip, clip_iqa, (32, 32)),
    "vqa_score, decoder only": ("vqa_score", tiny.write_llava, vqa_decoder, (32, 32)),
    "vqa_score, encoder and decoder": ("vqa_score", tiny.write_blip2, vqa_encoder, (32, 32)),
}
"""Metric, its weights, the formula, and a size of image that needs no resizing."""


@pytest.mark.parametrize("case", ADAPTERS)
def test_the_adapter_is_its_published_formula(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, write, by_hand, (height, width) = ADAPTERS[case]
    if by_hand is hps:
        monkeypatch.setattr(open_clip, "get_model_config", lambda _: HPS)
    spec, source = find(name), write(tmp_path / "weights")
    folder = source if source.is_dir() else source.parent
    encoder = ClipEncoder.load(str(folder)) if "clip" in spec.needs else None
    scorer = load(spec, encoder=encoder, weights=str(source) if "weights" in spec.needs else None)
    images = tiny.images(len(PROMPTS), height, width)
    with torch.no_grad():
        found = scorer(images, PROMPTS).double().numpy()
    expected = by_hand(source, images.double(), PROMPTS)
    assert expected.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # a formula that ignored the image or the prompt would not be seen to
    assert len({round(value, 6) for value in expected.tolist()}) == len(PROMPTS)
