"""Adapters of learned quality and reference metrics, with random weights of the real architecture."""

import importlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from tiny_clip import tiny_clip

from pixeval.catalog import find, load
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.metrics.clip_quality import ClipIqa


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def images(side: int = 64, n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def randomise(net: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and "filter" not in name and name not in ("mean", "std"):
            tensor.copy_(torch.rand_like(tensor) * 0.1)
    return net.eval()


def test_clip_iqa_is_the_softmax_over_each_pair(encoder: ClipEncoder) -> None:
    batch = images(32)
    found = load(find("clip_iqa"), encoder=encoder)(batch)
    logits = encoder.logit_scale * encoder(batch) @ encoder.encode_text(["Good photo.", "Bad photo."]).T
    torch.testing.assert_close(found, logits.softmax(1)[:, 0])
    pairs = (("Sharp photo.", "Blurry photo."), ("Good photo.", "Bad photo."))
    both, one = ClipIqa(encoder, pairs), ClipIqa(encoder, pairs[:1])
    torch.testing.assert_close(both(batch), (found + one(batch)) / 2)
    assert len({both.fingerprint, one.fingerprint, ClipIqa(encoder).fingerprint}) == 3
    with pytest.raises(InputError, match="at least one pair"):
        ClipIqa(encoder, ())


def test_the_aesthetic_head_is_linear_on_unit_features(encoder: ClipEncoder, tmp_path: Path) -> None:
    width = encoder(images(32)).shape[1]
    head = torch.nn.Linear(width, 1)
    save_file(dict(head.state_dict()), tmp_path / "head.safetensors")
    metric = load(find("laion_aesthetic"), encoder=encoder, weights=str(tmp_path / "head.safetensors")).to("cpu")
    torch.testing.assert_close(metric(images(32)), head(encoder(images(32)))[:, 0])
    layers = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in ((width, 8), (8, 4), (4, 1))))
    deep = {f"layers.{2 * i}.{n}": p for i, layer in enumerate(layers) for n, p in layer.state_dict().items()}
    save_file(deep, tmp_path / "deep.safetensors")
    metric = load(find("laion_aesthetic"), encoder=encoder, weights=str(tmp_path / "deep.safetensors"))
    torch.testing.assert_close(metric(images(32)), layers(encoder(images(32)))[:, 0])
    for tensors in ({"weight": torch.rand(1, 3)}, {"weight": torch.rand(2, width), "bias": torch.rand(2)}):
        save_file(tensors, tmp_path / "bad.safetensors")
        with pytest.raises(InputError, match="no head of laion_aesthetic"):
            load(find("laion_aesthetic"), encoder=encoder, weights=str(tmp_path / "bad.safetensors"))
    save_file({"weight": torch.rand(1, width + 1), "bias": torch.rand(1)}, tmp_path / "wide.safetensors")
    metric = load(find("laion_aesthetic"), encoder=encoder, weights=str(tmp_path / "wide.safetensors"))
    with pytest.raises(InputError, match="--clip"):
        metric(images(32))


def test_lpips_equals_torchmetrics(tmp_path: Path) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    net = randomise(_LPIPS(pretrained=False, net="alex", pnet_rand=True))
    save_model(net, str(tmp_path / "lpips.safetensors"))
    metric = load(find("lpips"), weights=str(tmp_path / "lpips.safetensors")).to("cpu")
    first, second = images(), images(seed=1).requires_grad_()
    found = metric(second, first)
    torch.testing.assert_close(found, net(second, first, normalize=True).flatten())
    assert (metric(first, first) == 0).all()
    found.sum().backward()
    assert second.grad is not None and second.grad.abs().sum() > 0
    save_file({"a": torch.rand(1)}, tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="no LPIPS network"):
        load(find("lpips"), weights=str(tmp_path / "bad.safetensors"))


def test_dists_equals_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.functional.image import dists
    from torchvision.models import vgg16

    monkeypatch.setattr(dists, "vgg16", lambda weights: vgg16(weights=None))  # theirs is built with a download
    torch.manual_seed(0)
    net = dists.DISTSNetwork(load_weights=False).eval()
    save_model(net, str(tmp_path / "dists.safetensors"))
    metric = load(find("dists"), weights=str(tmp_path / "dists.safetensors")).to("cpu")
    first, second = images(), images(seed=1)
    torch.testing.assert_close(metric(second, first), net(second, first))
    assert metric(first, first).abs().max() < 1e-5
    save_file({"alpha": torch.rand(1, 1475, 1, 1)}, tmp_path / "part.safetensors")
    with pytest.raises(InputError, match="lacks"):
        load(find("dists"), weights=str(tmp_path / "part.safetensors"))


def test_arniqa_equals_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arniqa = importlib.import_module("torchmetrics.functional.image.arniqa")
    monkeypatch.setattr(arniqa._ARNIQA, "_load_weights", lambda self: None)  # theirs downloads
    torch.manual_seed(0)
    net = arniqa._ARNIQA("koniq10k").eval()
    save_model(net, str(tmp_path / "arniqa.safetensors"))
    metric = load(find("arniqa"), weights=str(tmp_path / "arniqa.safetensors")).to("cpu")
    found = metric(images(96))
    torch.testing.assert_close(found, net(images(96), normalize=True).flatten())
    assert found.shape == (2,)
