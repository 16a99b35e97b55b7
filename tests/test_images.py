"""Reading any ordinary file into the one image convention."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, check_images, decode_image, list_images, read_image, to_uint8, write_png


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def ramp(mode: str = "RGB") -> Image.Image:
    array = np.zeros((4, 6, 3), np.uint8)
    array[..., 0] = np.arange(6) * 40
    array[..., 1] = np.arange(4)[:, None] * 60
    return Image.fromarray(array).convert(mode)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    image = decode_image(encoded(ramp(), format, **options), "x")
    assert image.dtype == torch.float32
    assert np.array_equal(to_uint8(image[None])[0], np.asarray(ramp()))


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    values = decode_image(encoded(image, "PNG"), "x")
    assert values[:, 0, 0].tolist() == [1, 1, 1]
    assert values[:, 0, 1].tolist() == [1, 0, 0]


def test_a_palette_with_transparency_is_laid_on_white_too() -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    assert decode_image(encoded(image, "PNG", transparency=0), "x").flatten().tolist() == [1, 1, 1]


def test_sixteen_bits_are_kept() -> None:
    array = np.array([[0, 257, 65535]], dtype=np.uint16)
    values = decode_image(encoded(Image.fromarray(array), "PNG"), "x")
    assert values.shape == (3, 1, 3)
    assert values[0, 0].tolist() == pytest.approx([0, 257 / 65535, 1])


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate a quarter to the right to show it
    turned = decode_image(encoded(ramp(), "PNG", exif=exif), "x")
    assert turned.shape == (3, 6, 4)
    assert np.array_equal(to_uint8(turned[None])[0], np.rot90(np.asarray(ramp()), -1))


def test_a_truncated_file_says_so() -> None:
    data = encoded(Image.effect_noise((64, 64), 80).convert("RGB"), "PNG")
    with pytest.raises(UnreadableImage, match=r"x\.png is damaged or truncated"):
        decode_image(data[: len(data) // 2], "x.png")


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_says_so(data: bytes) -> None:
    with pytest.raises(UnreadableImage, match="x"):
        decode_image(data, "x")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "gone.png")


def test_png_round_trip_carries_no_metadata(tmp_path: Path) -> None:
    image = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    first = write_png(image, tmp_path / "a.png")
    assert first == write_png(image, tmp_path / "b.png")
    assert torch.allclose(read_image(tmp_path / "a.png"), image, atol=0.5 / 255 + 1e-6)
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.info == {}


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(3, 4, 4), "N x 3 x H x W"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "divide by 255"),
        (torch.full((1, 3, 4, 4), -1.0), r"\[0, 1\]"),
        (torch.full((1, 3, 4, 4), float("nan")), r"\[0, 1\]"),
    ],
)
def test_the_convention_is_checked(images: torch.Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_images(images)


def test_hidden_files_are_not_listed(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".c.png", ".hidden/d.png", "sub/e.webp", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.name for p in list_images(tmp_path)] == ["a.JPG", "b.png", "e.webp"]


def test_a_link_to_nowhere_is_listed_and_a_folder_called_like_an_image_is_not(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "unmounted" / "x.png")
    assert [p.name for p in list_images(tmp_path)] == ["link.png"]
    with pytest.raises(UnreadableImage, match=r"cannot read link\.png: No such file"):
        read_image(tmp_path / "link.png")
