"""HPSv3 on tiny random weights of its architecture: the head by hand in float64, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_published as tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor

from pixeval.catalog import find, load
from pixeval.errors import InputError
from pixeval.images import to_uint8

MARKS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published layout in small."""
    folder = tmp_path_factory.mktemp("hpsv3")
    tokenizer = tiny.word_tokenizer(**MARKS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    token = {name: tokenizer.convert_tokens_to_ids(mark) for name, mark in MARKS.items()}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = Qwen2VLConfig(
        text_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
        | {"rope_parameters": rope, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        vision_config={"embed_dim": 32, "hidden_size": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
        | {"patch_size": 8, "spatial_merge_size": 2},
        image_token_id=token["image_token"],
        video_token_id=token["video_token"],
        vision_start_token_id=token["vision_bos_token"],
        vision_end_token_id=token["vision_eos_token"],
    )
    tiny.random_model(Qwen2VLForConditionalGeneration, config, 0).save_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    shapes = {"0": (12, 32), "3": (6, 12), "5": (2, 6)}
    weights = {f"rm_head.{k}.weight": torch.randn(shape, generator=generator) for k, shape in shapes.items()}
    weights |= {f"rm_head.{k}.bias": torch.randn(shape[0], generator=generator) for k, shape in shapes.items()}
    save_file(load_file(folder / "model.safetensors") | weights, folder / "model.safetensors", {"format": "pt"})
    size = {"shortest_edge": 1024, "longest_edge": 1024}
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=8, merge_size=2, size=size),
        tokenizer=tokenizer,
        video_processor=tiny.Qwen2VLVideoProcessor(patch_size=8, merge_size=2),
        chat_template=tiny.CHAT.replace("<image> ", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)
    (folder / "instruction.txt").write_text("does this figure show {text_prompt} ? <|Reward|>\n")
    return folder


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Any:
    return load(find("hpsv3"), weights=str(folder))


def test_the_head_reads_the_reward_token(folder: Path, scorer: Any) -> None:
    images, prompts = tiny.images(), ["a red apple", "a blue car", "a red apple"]
    found = scorer(images, prompts)
    assert found.shape == (3,) and found.dtype == torch.float32
    assert len(set(found.tolist())) == 3
    torch.testing.assert_close(scorer(images[1:2], prompts[1:2]), found[1:2])
    text = (
        f"USER: <|vision_start|><|image_pad|><|vision_end|>does this figure show {prompts[1]} ? <|Reward|> ASSISTANT:"
    )
    inputs = scorer.processor(images=[Image.fromarray(to_uint8(images[1:2])[0])], text=[text], return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        states = scorer.model(
            **inputs, position_ids=torch.arange(length).expand(3, 1, -1), output_hidden_states=True
        ).hidden_states[-1]
    place = inputs["input_ids"][0].tolist().index(scorer.reward_token)
    weights = {
        name: t.double().numpy() for name, t in load_file(folder / "model.safetensors").items() if "rm_head" in name
    }
    x = states[0, place].double().numpy()
    for layer in ("0", "3"):
        x = np.maximum(weights[f"rm_head.{layer}.weight"] @ x + weights[f"rm_head.{layer}.bias"], 0)
    mean, _ = weights["rm_head.5.weight"] @ x + weights["rm_head.5.bias"]
    assert float(found[1]) == pytest.approx(mean, rel=1e-4)


def test_what_it_refuses(folder: Path, scorer: Any, tmp_path: Path) -> None:
    images = tiny.images(1)
    assert scorer.hindrance("a red apple") is None
    with pytest.raises(InputError, match="means something else"):
        scorer(images, ["a <|Reward|> car"])
    assert "tokens with its instruction" in scorer.hindrance("red " * 200)
    with pytest.raises(InputError, match="images come first"):
        scorer(["a red apple"], images)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(InputError, match=r"instruction\.txt"):
        load(find("hpsv3"), weights=str(tmp_path))
    (tmp_path / "instruction.txt").write_text("no place")
    with pytest.raises(InputError, match="each once"):
        load(find("hpsv3"), weights=str(tmp_path))
