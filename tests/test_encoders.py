"""The open_clip encoder: preprocessing, long prompts, loading, fingerprints."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from tiny_clip import CAPTIONS, CONTEXT, tiny_clip, write_tiny_clip

from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.zoo.icons import load_icons


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def photo(height: int, width: int) -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[100 : 100 + height, 150 : 150 + width])


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("shape", [(32, 32), (200, 120), (75, 131), (20, 50)])
def test_preprocessing_equals_open_clip_on_pil(tmp_path: Path, mode: str, shape: tuple[int, int]) -> None:
    encoder = tiny_clip(tmp_path, resize_mode=mode)
    array = photo(*shape)
    expected = image_transform_v2(PreprocessCfg(**encoder.preprocess), is_train=False)(Image.fromarray(array))
    images = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    difference = (encoder.prepare(images)[0] - expected).abs()
    # PIL rounds to 8 bits after resizing
    assert difference.max() < 4 / 255 / 0.3
    assert difference.mean() < 0.6 / 255 / 0.3


def test_features_equal_open_clip(encoder: ClipEncoder) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = encoder.model.encode_image(encoder.prepare(images), normalize=True)
    assert torch.equal(encoder(images), expected)
    tokens = encoder.tokenizer(list(CAPTIONS))
    torch.testing.assert_close(encoder.encode_text(CAPTIONS), encoder.model.encode_text(tokens, normalize=True))


def test_gradients_reach_the_images(encoder: ClipEncoder) -> None:
    images = torch.rand(2, 3, 48, 40, requires_grad=True)
    (encoder(images) @ encoder.encode_text(["a red apple"])[0]).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.model.parameters())


def test_no_part_of_a_long_prompt_is_lost(encoder: ClipEncoder) -> None:
    words = [f"{w}" for caption in CAPTIONS for w in caption.split()]
    prompt = " ".join(words * 3)
    parts = encoder.split(prompt)
    assert len(parts) > 1
    assert " ".join(text for text, _ in parts).split() == prompt.split()
    assert all(encoder.count_tokens(text) == tokens <= CONTEXT - 2 for text, tokens in parts)
    weights = torch.tensor([float(tokens) for _, tokens in parts])
    expected = weights / weights.sum() @ encoder.encode_text([text for text, _ in parts])
    torch.testing.assert_close(encoder.encode_text([prompt])[0], expected)
    # the last word is far beyond the context and must still count
    assert not torch.allclose(encoder.encode_text([prompt])[0], encoder.encode_text([prompt + " dog"])[0])


def test_one_word_longer_than_the_context_is_cut_into_parts(encoder: ClipEncoder) -> None:
    word = "xylophonequartz" * 20
    parts = encoder.split(word)
    assert "".join("".join(text.split()) for text, _ in parts) == word
    assert encoder.encode_text([word]).isfinite().all()


def test_empty_and_odd_prompts_have_features(encoder: ClipEncoder) -> None:
    features = encoder.encode_text(["", "   ", "🦄 naïve \u202e <script>", "\n\t"])
    assert features.shape == (4, 16)
    assert features.isfinite().all()


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    first, again, other = (tiny_clip(tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1)))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    squashed = tiny_clip(tmp_path / "squash", resize_mode="squash")
    assert squashed.fingerprint != first.fingerprint


def test_extreme_shapes_do_not_exhaust_memory(encoder: ClipEncoder) -> None:
    assert encoder(torch.rand(1, 3, 8, 20000)).shape == (1, 16)


def test_loading_errors_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"open_clip_config\.json"):
        ClipEncoder.load(str(tmp_path))
    folder = write_tiny_clip(tmp_path / "clip")
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights are not read"):
        ClipEncoder.load(str(folder))
    (folder / "open_clip_pytorch_model.bin").unlink()
    (folder / "open_clip_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0truncated")
    with pytest.raises(InputError, match="cannot be loaded"):
        ClipEncoder.load(str(folder))
    with pytest.raises(InputError, match="ARCHITECTURE/PRETRAINED"):
        ClipEncoder.load("ViT-B-32/no-such-weights")
    assert ("ViT-B-32", "openai") in open_clip.list_pretrained()


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_long_prompts_are_split_with_the_tokenizer_of_open_clip_too(kind: type[torch.nn.Module]) -> None:
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    torch.manual_seed(0)
    model = kind(16, vision, {"context_length": 12, "width": 32, "heads": 2, "layers": 1})
    model.visual.preprocess_cfg = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    encoder = ClipEncoder(model, open_clip.SimpleTokenizer(context_length=12))
    prompt = "a photograph of an astronaut riding a horse across the surface of the moon at dawn"
    parts = encoder.split(prompt)
    assert len(parts) == 2
    assert " ".join(text for text, _ in parts) == prompt
    assert all(encoder.count_tokens(text) == tokens <= 10 for text, tokens in parts)
    # the tokens that the model is given, between start and end, are those of the prompt, in order and all of them
    given = [int(t) for row in encoder.tokenizer([text for text, _ in parts]) for t in row if 0 < t < 49406]
    assert given == encoder.tokenizer.encode(prompt)
    assert not torch.allclose(encoder.encode_text([prompt]), encoder.encode_text([prompt + " again"]))


def test_half_precision_is_close_and_has_a_fingerprint_of_its_own() -> None:
    images = torch.from_numpy(load_icons("heldout").images[:16]).permute(0, 3, 1, 2).float() / 255
    whole, half = ClipEncoder.load(), ClipEncoder.load(precision="bfloat16")
    assert half.fingerprint != whole.fingerprint
    with torch.no_grad():
        cosines = (whole(images) * half(images)).sum(1)
        assert half(images).dtype == torch.float32
    assert float(cosines.min()) > 0.999
    assert float(cosines.min()) < 1 - 1e-7  # it is another arithmetic
