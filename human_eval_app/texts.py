"""What annotators read: questions, guideline, reasons, categories."""

from dataclasses import dataclass

from pixeval.records import Choice, FlawCategory, Question


@dataclass(frozen=True)
class QuestionText:
    """One question as the page asks it."""

    id: Question
    title: str
    hint: str
    marks: bool
    """Whether flaws can be marked on the images."""
    words: bool
    """Whether words of the prompt can be marked."""
    checks: bool
    """Whether the prompt's yes/no questions are asked."""
    choices: tuple[Choice, ...]


QUESTION_TEXTS: dict[Question, QuestionText] = {
    "flaws": QuestionText(
        "flaws",
        "Which image has fewer flaws?",
        "Look for broken or missing parts, wrong shapes, smears and noise. The text behind the images is hidden.",
        marks=True,
        words=False,
        checks=False,
        choices=("left", "tie", "right", "both_bad", "skip"),
    ),
    "appeal": QuestionText(
        "appeal",
        "Which image do you like more?",
        "Judge the look as a whole: colour, light, composition.",
        marks=False,
        words=False,
        checks=False,
        choices=("left", "tie", "right", "both_bad", "reject", "skip"),
    ),
    "alignment": QuestionText(
        "alignment",
        "Which image fits the text better?",
        "Count what is asked for and shown; beauty aside.",
        marks=False,
        words=True,
        checks=True,
        choices=("left", "tie", "right", "both_bad", "skip"),
    ),
}

GUIDELINE = """\
You will see two images at a time and say which is better, one question at a time. There is no right speed: look as \
long as you need, and zoom in where you are not sure.

Fewer flaws: look for what went wrong in making the image, such as broken or missing parts, extra fingers, letters \
that are none, smears, noise, blocks, stripes. Style and subject do not matter here, and the text behind the images is \
hidden. Mark the flaws that decided it.

Liking: which one would you rather look at or show to others? Judge colour, light and composition. When one is a photo \
and the other a drawing, so that they cannot be compared, say so.

Fitting the text: which image shows more of what the text asks for? Beauty does not count here. Mark the words that \
are missing or wrong.

Answer with a tie when you see no difference that matters, with both bad when neither is acceptable. Skip a pair that \
you cannot judge. The last answer can always be taken back."""

SKIP_REASONS = ("An image does not load", "I cannot judge this", "I know these images", "Something else")

MARK_CATEGORIES: dict[FlawCategory, str] = {
    "artifact": "Artifact, noise, pattern",
    "anatomy": "Body, hands, faces",
    "text": "Letters and signs",
    "blur": "Blur",
    "texture": "Texture, surface",
    "colour": "Colour, light",
    "other": "Something else",
}
