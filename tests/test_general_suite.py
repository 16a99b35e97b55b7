"""The bundled suite of general prompts: size, balance, variety, and questions that can be answered from the image."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer

from pixeval.suites import load_prompts

PROMPTS = load_prompts("general")
MAIN = {
    "people",
    "hands",
    "faces",
    "animals",
    "food",
    "text",
    "counting",
    "relations",
    "attributes",
    "style",
    "indoor",
    "outdoor",
    "architecture",
    "vehicles",
    "materials",
    "lighting",
    "action",
    "fantasy",
    "long",
    "short",
    "negation",
    "rare",
}
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
STYLES = {"photo", "oil", "watercolour", "anime", "3d", "pixel-art", "vector", "sketch", "comic", "ink", "craft"}


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def test_six_hundred_prompts_cover_every_tag() -> None:
    assert len(PROMPTS) == 600
    counts = Counter(tag for prompt in PROMPTS for tag in prompt.tags)
    assert set(counts) == MAIN | STYLES
    assert min(counts[tag] for tag in MAIN) >= 25
    assert min(counts[tag] for tag in STYLES) >= 7
    assert all(re.fullmatch(r"[a-z0-9-]+", prompt.id) for prompt in PROMPTS)
    assert all(prompt.id.rpartition("-")[0] in prompt.tags for prompt in PROMPTS)


def test_no_two_prompts_are_near_duplicates() -> None:
    sets = [words(prompt.text) for prompt in PROMPTS]
    worst = max(len(a & b) / len(a | b) for a, b in combinations(sets, 2))
    assert worst <= 0.7


def test_long_and_short_mean_what_they_say() -> None:
    tokens = SimpleTokenizer()
    for prompt in PROMPTS:
        length = len(tokens.encode(prompt.text)) + 2  # start and end
        assert ("long" in prompt.tags) == (length > 77), prompt.id
        assert ("short" in prompt.tags) == (len(prompt.text.split()) <= 5), prompt.id


def test_questions_are_few_different_and_about_this_prompt() -> None:
    for prompt in PROMPTS:
        assert 1 <= len(prompt.questions) <= 6, prompt.id
        assert len(set(prompt.questions)) == len(prompt.questions), prompt.id
        for question in prompt.questions:
            assert re.fullmatch(r"(Is|Are|Does|Do|Has) .+\?", question), question


def test_text_to_render_is_asked_for_word_by_word() -> None:
    for prompt in PROMPTS:
        if "text" in prompt.tags:
            for quoted in re.findall(r'"([^"]+)"', prompt.text):
                assert any(f'"{quoted}"' in question for question in prompt.questions), prompt.id


def test_composition_prompts_say_what_a_detector_can_check() -> None:
    own = [p for p in PROMPTS if p.id.rpartition("-")[0] in ("counting", "relations")]
    assert all(prompt.objects for prompt in own)
    assert sum(bool(prompt.relations) for prompt in own) >= 20
    for prompt in PROMPTS:
        for thing in prompt.objects:
            asked = " ".join(prompt.questions).lower()
            stem = thing.name.replace("person", "people").split()[-1][:3]  # leaf and leaves
            assert stem in asked, (prompt.id, thing)
            if thing.at_most is not None and thing.at_most > 1:
                assert thing.at_least == thing.at_most and NUMBERS[thing.at_least] in asked, (prompt.id, thing)
        ends = {end for relation in prompt.relations for end in (relation.subject, relation.object)}
        assert ends <= set(range(len(prompt.objects)))


def test_the_guide_gives_the_right_counts() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "prompts.md").read_text()
    counts = Counter(tag for prompt in PROMPTS for tag in prompt.tags)
    told: dict[str, int] = {}
    for tags, numbers in re.findall(r"^\| ((?:`[a-z0-9-]+`(?:, )?)+) \| ([\d, ]+) \|", guide, re.M):
        named = re.findall(r"`([^`]+)`", tags)
        if named[0] in counts:
            told |= dict(zip(named, map(int, numbers.split(", ")), strict=True))
    told |= {tag: int(number) for tag, number in re.findall(r"`([a-z0-9-]+)` (\d+)[,| ]", guide)}
    assert told == dict(counts)
    assert f"{sum(len(prompt.questions) for prompt in PROMPTS):,} yes/no questions" in guide
    assert f"{sum(bool(prompt.objects) for prompt in PROMPTS)} of its prompts" in guide
