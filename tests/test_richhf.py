"""RichHF-18K from TensorFlow records: what is read, what is left out and said, and that names are no paths."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_png import png_that_says
from tiny_tfrecord import crc32c, example, field, png, record, rich_example

from pixeval.errors import InputError
from reward_models.richhf import read_richhf, richhf_examples
from reward_models.tfrecord import DamagedRecord, masked_crc, parse_example, read_records
from reward_models.train_flaw_map import FlawMapConfig, train_map

MAP = np.zeros((16, 16))
MAP[:, 8:] = 255
MAP[:4, :4] = 85


def test_checksums_are_those_of_the_definition() -> None:
    # the check value of CRC-32C, and two of RFC 3720, B.4
    assert crc32c(b"123456789") == 0xE3069283
    assert (crc32c(bytes(32)), crc32c(b"\xff" * 32)) == (0x8A9136AA, 0x62A8AB43)
    data = bytes(range(256))
    assert struct.pack("<I", masked_crc(data)) == record(data)[-4:]


def test_examples_are_parsed_whatever_form_their_numbers_have() -> None:
    found = parse_example(example({"a": b"\x00\xff", "b": 0.25, "c": [3, -1, 2**40]}))
    assert found == {"a": [b"\x00\xff"], "b": [0.25], "c": [3, -1, 2**40]}
    alone = field(2, b"\x0d" + struct.pack("<f", 1.5) + b"\x0d" + struct.pack("<f", -2))
    packed = field(3, field(1, b"\x05\x80\x01"))
    entries = field(1, field(1, b"x") + field(2, alone)) + field(1, field(1, b"y") + field(2, packed))
    # a field of another kind, and one that this program does not know, are passed over
    assert parse_example(field(7, b"new") + b"\x49" + bytes(8) + field(1, entries)) == {"x": [1.5, -2], "y": [5, 128]}
    for damaged in (b"\x0a\x7f", b"\x80" * 12, b"\x0b", field(1, field(1, field(2, b"")))):
        with pytest.raises(DamagedRecord):
            parse_example(damaged)


def test_damaged_records_are_named_and_the_others_read(tmp_path: Path) -> None:
    file = tmp_path / "test.tfrecord"
    parts = [record(b"one"), record(b"two"), record(b"three")]
    second = bytearray(parts[1])
    second[12] ^= 1
    problems: list[str] = []
    file.write_bytes(parts[0] + bytes(second) + parts[2])
    assert list(read_records(file, problems)) == [b"one", b"three"]
    assert problems.pop() == "test.tfrecord: record 1 is damaged and left out"
    file.write_bytes(parts[0] + parts[1][:-2])
    assert list(read_records(file, problems)) == [b"one"]
    assert problems.pop() == "test.tfrecord: ends within record 1"
    # a length of 2^62 must not be allocated: its checksum is right, and the file is too short
    length = struct.pack("<Q", 2**62)
    file.write_bytes(parts[0] + length + record(length)[-4:])
    assert list(read_records(file, problems)) == [b"one"] and "ends within record 1" in problems.pop()
    file.write_bytes(parts[0] + b"garbage, and more of it")
    assert list(read_records(file, problems)) == [b"one"]
    assert problems == ["test.tfrecord: damaged at byte 19, after 1 records; the rest is left out"]
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(InputError, match="git lfs pull"):
        list(read_records(file, problems))
    with pytest.raises(InputError, match="cannot read"):
        list(read_records(tmp_path / "none", problems))


def test_what_is_no_example_of_richhf_is_left_out_with_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "dev.tfrecord"
    whole = rich_example("dev/a.png", MAP, 0.75)
    broken = whole.replace(png(MAP), png(MAP)[:40].ljust(len(png(MAP)), b"\0"))
    score = {"filename": b"x", "artifact_score": 0.5}
    large = [example({**score, "artifact_map": png_that_says(side, side)}) for side in (5000, 20_000)]
    file.write_bytes(b"".join(map(record, (whole, broken, example({"filename": b"x"}), *large, b"\x0b"))))
    problems: list[str] = []
    (found,) = read_richhf(file, problems)
    assert found.filename == "dev/a.png" and found.rating == 0.75
    torch.testing.assert_close(found.artifacts, torch.from_numpy(MAP / 255).float())
    assert [problem.split("(")[1].split(")")[0] for problem in problems] == [
        "artifact_map is not an image that can be read",
        "it has no artifact_score",
        "artifact_map has 5000x5000 pixels; 4096 a side are the most",
        "artifact_map is not an image that can be read",
        "a field of the unknown kind 3",
    ]


def test_a_recorded_name_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    images = tmp_path / "images" / "train"
    images.mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(png(MAP))
    Image.new("RGB", (32, 24)).save(images / "inside.png")
    names = ("../secret.png", str(tmp_path / "secret.png"), "..\\secret.png", "..", "", "\0", "train/inside.jpg")
    file = tmp_path / "train.tfrecord"
    file.write_bytes(b"".join(record(rich_example(name, MAP, 0.5)) for name in names))
    problems: list[str] = []
    (found,) = richhf_examples(tmp_path, images.parent, "train", 10, problems)
    assert found.source == "inside" and found.by_people and found.rating == 0.5
    assert found.pixels.shape == (3, 24, 32) and found.mask.shape == (24, 32)
    assert found.mask[:, 16:].min() == 1 and found.mask[0, 0] == pytest.approx(1 / 3)
    assert problems == ["train.tfrecord: 6 images are not below images and left out"]
    (images / "again").mkdir()
    Image.new("RGB", (8, 8)).save(images / "again" / "inside.png")
    with pytest.raises(InputError, match="two images named 'inside'"):
        list(richhf_examples(tmp_path, images, "train", 10, problems))
    (images / "again" / "inside.png").unlink()
    with pytest.raises(InputError, match="holds no image of"):
        list(richhf_examples(tmp_path, images / "again", "train", 10, problems))


def test_the_command_trains_on_it_and_reports_the_paper_s_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the planted examples take minutes; here a few of people only
    monkeypatch.setattr("reward_models.train_flaw_map.training_images", list)
    monkeypatch.setattr("reward_models.train_flaw_map.clean_images", lambda _: [])
    monkeypatch.setattr("reward_models.train_flaw_map.STEPS", 150)
    images = tmp_path / "images"
    images.mkdir()
    for part, numbers in (("train", range(8)), ("test", range(8, 13))):
        records = []
        for number in numbers:
            mask = np.zeros((32, 32))
            mask[:, : 4 * (number % 4)] = 255
            rng = np.random.default_rng(number)
            grain = (mask[..., None] > 0) * rng.normal(0, 30, (32, 32, 3))
            picture = np.clip(120 + grain, 0, 255)
            Image.fromarray(picture.astype(np.uint8)).save(images / f"{part}{number}.png")
            records.append(record(rich_example(f"{part}/{part}{number}.png", mask, 1 - (number % 4) / 4)))
        (tmp_path / f"{part}.tfrecord").write_bytes(b"".join(records))
    told = train_map(FlawMapConfig(tmp_path / "map", richhf=tmp_path, images=images, richhf_images=8))
    assert told["marked_images"] == 8 and told["left_out"] == []
    found = told["RichHF-18K test"]
    assert set(found) > {"MSE", "MSE of sound images", "CC", "KLD", "SIM", "NSS", "AUC-Judd", "mIoU", "PLCC", "SRCC"}
    assert found["MSE"]["n"] == 5 and found["MSE of sound images"]["n"] == 2 and found["CC"]["n"] == 3
    assert found["AUC-Judd"]["value"] > 0.8 and found["SRCC"]["value"] > 0.5
    assert json.loads((tmp_path / "map" / "figures.json").read_text()) == told
    with pytest.raises(InputError, match="give both --richhf and --images"):
        train_map(FlawMapConfig(tmp_path / "map", richhf=tmp_path))
