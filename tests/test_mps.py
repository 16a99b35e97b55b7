"""MPS on tiny random weights of its architecture: the arithmetic by hand in float64, and the published file's form."""

import runpy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_published as tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from pixeval.errors import InputError
from pixeval.metrics.mps import CONDITIONS, RELATED, Mps

PROMPTS = ["a red apple", "a blue car on a road", "a red apple"]
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64).view(3, 1, 1)

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_mps(tmp_path_factory.mktemp("mps"))


def softmax(x: Tensor) -> Tensor:
    power = (x - x.max()).exp()
    return power / power.sum()


def normed(x: Tensor, own: Weights, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * own[f"{name}.norm.weight"]


def gated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x[:, :half] * x[:, half:] / (1 + (-x[:, half:]).exp())


def turned(x: Tensor) -> Tensor:
    """Rotary places: number k and k + 32 of a row are one complex number, turned by the row's place."""
    speed = 10000.0 ** (-torch.arange(32, dtype=torch.float64) / 32)
    turn = torch.arange(len(x), dtype=torch.float64)[:, None] * speed
    number = torch.complex(x[:, :32], x[:, 32:]) * torch.polar(torch.ones_like(turn), turn)
    return torch.cat((number.real, number.imag), 1)


def grounded(own: Weights, patches: Tensor, words: Tensor) -> Tensor:
    """P x D and the words that take part, both of one image -> P x D."""
    for layer in ("layers.0", "layers.1"):
        name = f"{layer}.0.fn"
        x = normed(patches, own, name)
        key, value = (words @ own[f"{name}.to_kv.weight"].T).chunk(2, 1)
        query = x @ own[f"{name}.to_q.weight"].T
        heads = [
            torch.stack([softmax(row @ key.T / 8) @ value for row in query[:, 64 * h : 64 * h + 64]]) for h in (0, 1)
        ]
        mixed = torch.cat(heads, 1) @ own[f"{name}.to_out.weight"].T
        patches = patches + mixed + gated(x @ own[f"{name}.ff.0.weight"].T) @ own[f"{name}.ff.2.weight"].T
        name = f"{layer}.1.fn"
        fused = normed(patches, own, name) @ own[f"{name}.fused_attn_ff_proj.weight"].T
        key, value = turned(fused[:, 128:192]), fused[:, 192:256]
        heads = [
            torch.stack([softmax(row @ key.T / 8) @ value for row in turned(fused[:, 64 * h : 64 * h + 64])])
            for h in (0, 1)
        ]
        mixed = torch.cat(heads, 1) @ own[f"{name}.attn_out.weight"].T
        patches = patches + mixed + gated(fused[:, 256:]) @ own[f"{name}.ff_out.1.weight"].T
    return patches


class ByHand:
    """Scores as the authors' benchmark has them, one pair at a time, in float64."""

    def __init__(self, folder: Path) -> None:
        tensors = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
        self.own = {n.removeprefix("cross_model."): t for n, t in tensors.items() if n.startswith("cross_model.")}
        self.clip = CLIPModel(CLIPConfig.from_pretrained(folder)).double().eval()
        inner = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        inner.pop("text_model.embeddings.position_ids")
        self.clip.load_state_dict(inner)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.condition = self.read(CONDITIONS["overall"])[0]

    def read(self, text: str) -> tuple[Tensor, int]:
        tokens = self.tokenizer(text, max_length=77, padding="max_length", truncation=True, return_tensors="pt")
        place = tokens.input_ids[0].tolist().index(self.tokenizer.eos_token_id)
        with torch.no_grad():
            return self.clip.text_projection(self.clip.text_model(tokens.input_ids).last_hidden_state)[0], place

    def shares(self, prompt: str) -> Tensor:
        products = torch.stack([(self.condition @ word).max() for word in self.read(prompt)[0]])
        return products / products.max()

    def score(self, image: Tensor, prompt: str, threshold: float) -> float:
        words, place = self.read(prompt)
        taken = words[self.shares(prompt) > threshold]
        with torch.no_grad():
            seen = self.clip.vision_model(((image.double() - MEAN) / STD)[None]).last_hidden_state
            found = grounded(self.own, self.clip.visual_projection(seen)[0], taken)[0]
            cosine = found @ words[place] / (found.norm() * words[place].norm())
            return float(self.clip.logit_scale.exp() * cosine)


def test_it_is_the_authors_arithmetic(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, hand = tiny.images(height=32, width=32), ByHand(folder)
    assert RELATED == 0.3
    # random words are all related to random words: here the threshold is where some are left out, in a wide gap
    shares = torch.cat([hand.shares(prompt) for prompt in set(PROMPTS)]).sort().values
    gap = int((shares[1:] - shares[:-1])[10:-10].argmax()) + 10
    for threshold in (0.3, float(shares[gap] + shares[gap + 1]) / 2):
        monkeypatch.setattr("pixeval.metrics.mps.RELATED", threshold)
        expected = [hand.score(image, prompt, threshold) for image, prompt in zip(images, PROMPTS, strict=True)]
        found = Mps(str(folder))(images, PROMPTS)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)
        assert len(set(found.tolist())) == 3
    left_out = [int((hand.shares(prompt) <= threshold).sum()) for prompt in set(PROMPTS)]
    assert any(0 < count < 77 for count in left_out), "the mask must leave some words out for this to test it"


def test_long_prompts_have_no_value_and_other_conditions_another(folder: Path, tmp_path: Path) -> None:
    scorer, image = Mps(str(folder)), tiny.images(1)
    long = "a red apple " * 40
    assert scorer.hindrance("a red apple") is None
    assert "mps reads 77 and would cut the rest" in str(scorer.hindrance(long))
    with pytest.raises(InputError, match="tokens; mps reads 77"):
        scorer(image, [long])
    other = Mps(str(folder), condition="alignment")
    assert other.fingerprint != scorer.fingerprint
    tensors = load_file(folder / "model.safetensors")
    for name in ("cross_model.layers.1.0.fn.to_q.weight", "model.text_projection.weight"):
        broken = tiny.write_mps(tmp_path / name)
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, broken / "model.safetensors")
        with pytest.raises(InputError, match="does not hold the state dict of MPS"):
            Mps(str(broken))


class Inner(nn.Module):
    """With all that a module may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("passing", torch.ones(1), persistent=False)
        self.register_buffer("none", None)
        self.act, self.config = partial(torch.clamp, min=0), {"dtype": torch.float16, "layers": [1, 2]}


class Dangerous:
    """What a pickle can do when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('the pickle was run')",))


def test_the_published_pickle_is_converted_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.ModuleDict({"model": Inner(), "small": nn.Linear(2, 2).half()})
    model.danger = Dangerous()  # type: ignore[assignment]
    torch.save(model, tmp_path / "whole.pth")
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    (tmp_path / "convert_mps.py").write_text(page.split("```python\n# convert_mps.py\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["convert_mps.py", "whole.pth", "mps.safetensors"])
    runpy.run_path("convert_mps.py")
    found = load_file("mps.safetensors")
    assert set(found) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor)
