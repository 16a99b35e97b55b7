"""Yes/no questions to models that answer questions about images, tiny and random."""

from pathlib import Path

import pytest
import tiny_published as tiny
import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor, LlavaForConditionalGeneration, LlavaProcessor

from pixeval.errors import InputError
from pixeval.images import to_uint8
from pixeval.metrics.questions import QuestionRate, VqaScore
from pixeval.records import Prompt
from pixeval.vqa import NO, YES, VqaModel

PROMPTS = ["a red apple", "a dog", "is there a car or a tree"]
ASKED = 'Does this figure show "{}"? Please answer yes or no.'


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_blip2(tmp_path_factory.mktemp("blip2"))


def test_vqa_score_is_the_chance_of_yes_after_the_chat_template(llava: Path) -> None:
    model, processor = LlavaForConditionalGeneration.from_pretrained(llava), LlavaProcessor.from_pretrained(llava)
    images, expected = tiny.images(), []
    for array, prompt in zip(to_uint8(images), PROMPTS, strict=True):
        text = f"USER: <image> {ASKED.replace('{}', prompt)} ASSISTANT:"
        inputs = processor(images=Image.fromarray(array), text=text, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        expected.append(logits.softmax(-1)[processor.tokenizer.convert_tokens_to_ids("Yes")])
    found = VqaScore(str(llava))(images, PROMPTS)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert found.std() > 1e-4


def test_models_of_encoder_and_decoder_answer_from_the_first_step(blip2: Path) -> None:
    model, processor = Blip2ForConditionalGeneration.from_pretrained(blip2), Blip2Processor.from_pretrained(blip2)
    images, expected = tiny.images(), []
    for array, prompt in zip(to_uint8(images), PROMPTS, strict=True):
        text = f"Question: {ASKED.replace('{}', prompt)} Answer:"
        inputs = processor(images=Image.fromarray(array), text=text, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)).logits[0, -1]
        expected.append(logits.softmax(-1)[processor.tokenizer.convert_tokens_to_ids("Yes")])
    torch.testing.assert_close(VqaScore(str(blip2))(images, PROMPTS), torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_models_with_as_many_image_tokens_as_the_image_needs(tmp_path: Path) -> None:
    score, other = VqaScore(str(tiny.write_qwen(tmp_path / "qwen"))), "is there a car or a tree"
    for size in ((40, 48), (16, 64)):
        images = tiny.images(2, *size)
        together = score(images, [PROMPTS[0], other])
        alone = torch.cat([score(images[:1], PROMPTS[:1]), score(images[1:], [other])])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
        assert float((together[0] - together[1]).abs()) > 1e-4


def test_the_rate_is_the_share_of_yes_over_no(llava: Path) -> None:
    images, vqa = tiny.images(), VqaModel.load(str(llava))
    questions = tuple(f"is there a {thing} ?" for thing in ("apple", "car", "cat", "dog", "tree", "red", "blue"))
    records = {"x": Prompt("x", "x", (), questions), "y": Prompt("y", "y", (), questions[:1])}
    rate = QuestionRate(records, vqa)
    expected = []
    for image, prompt in zip(images, ["x", "y", "x"], strict=True):
        says = []
        for question in records[prompt].questions:
            chances = vqa.probabilities(image[None], [f"{question} Please answer yes or no."], (YES, NO))[0]
            says.append(float(chances[0] > chances[1]))
        expected.append(sum(says) / len(says))
    assert rate(images, ["x", "y", "x"]).tolist() == pytest.approx(expected)
    assert rate.hindrance("z") == rate.hindrance("") != rate.hindrance("x") is None
    with pytest.raises(InputError, match="no yes/no questions"):
        rate(images[:1], ["z"])
    assert QuestionRate({"x": records["x"]}, vqa).fingerprint != rate.fingerprint


def test_forms_of_an_answer_add_up(llava: Path) -> None:
    vqa, image = VqaModel.load(str(llava)), tiny.images(1)
    chances = vqa.probabilities(image, ["is it a dog ?"], (["Yes"], ["yes"], YES, ["Yes", "Yes"]))[0]
    assert float(chances[0] + chances[1]) == pytest.approx(float(chances[2]))
    assert float(chances[3]) == float(chances[0])
    with pytest.raises(InputError, match="no single token for 'Perhaps'"):
        vqa.probabilities(image, ["is it a dog ?"], (["Perhaps"],))


def test_nothing_is_cut_and_odd_prompts_are_only_text(llava: Path) -> None:
    score, image = VqaScore(str(llava)), tiny.images(1)
    fits = "apple " * 40
    assert not torch.allclose(score(image, [fits + "dog"]), score(image, [fits + "cat"]))
    with pytest.raises(InputError, match="the model's context is 96"):
        score(image, ["apple " * 90])
    assert score(image, ["{} {0} {x} %s \\ \" ' 🦄 \u202e"]).isfinite()


def test_one_model_serves_several_metrics(llava: Path) -> None:
    assert VqaScore(str(llava)).vqa is QuestionRate({}, str(llava)).vqa
