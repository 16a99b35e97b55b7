"""Does the image show what the prompt says, by yes/no questions to a model that answers questions about images."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pixeval.errors import InputError
from pixeval.metrics.arguments import check_pairs
from pixeval.records import Prompt
from pixeval.vqa import NO, YES, VqaModel

VQA_SCORE_QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
VQA_SCORE_ANSWER = "Yes"
QUESTION = "{} Please answer yes or no."


class VqaScore:
    """VQAScore (Lin et al. 2024, arXiv 2404.01291): the probability of "Yes" to the question whether the image shows
    the prompt. In [0, 1], higher is better.

    The probability is that of the answer's first token, among the whole vocabulary. CLIP-FlanT5, on which the paper's
    figures rest, is no model of transformers; with another model the values are of their own kind.
    """

    name = "vqa_score"

    def __init__(
        self, source: str | VqaModel, question: str = VQA_SCORE_QUESTION, answer: str = VQA_SCORE_ANSWER
    ) -> None:
        """``source``: a VqaModel, or folder or hub name of one; ``question`` has ``{}`` where the prompt goes."""
        self.vqa = source if isinstance(source, VqaModel) else VqaModel.load(source)
        self.question, self.answer = question, answer

    @property
    def fingerprint(self) -> str:
        """Of question, answer and model."""
        return f"{self.name}/1/{self.question.format('')}/{self.answer}/{self.vqa.fingerprint}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) float32 for N x 3 x H x W images and their prompts.

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs` and :meth:`VqaModel.probabilities`.
        """
        texts = check_pairs(self.name, images, prompts)
        # replace, not format: a prompt may hold braces
        questions = [self.question.replace("{}", text) for text in texts]
        return self.vqa.probabilities(images, questions, [[self.answer]])[:, 0]

    def to(self, device: str) -> "VqaScore":
        """Move the weights; returns itself."""
        self.vqa.to(device)
        return self


class QuestionRate:
    """The share of a prompt's yes/no questions to which the model rather says yes than no. In [0, 1], higher is better.

    The questions are those of the prompt's record; people answer the same ones in the labelling app. As in TIFA (Hu
    et al. 2023, arXiv 2303.11897), but each expected answer is yes.
    """

    name = "question_rate"

    def __init__(self, records: Mapping[str, Prompt], source: str | VqaModel) -> None:
        """``records`` by the text of the prompt; ``source`` as for :class:`VqaScore`."""
        self.records = records
        asked = "\x1f".join(f"{text}\x1e{records[text].questions}" for text in sorted(records))
        self._asked = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        self.vqa = source if isinstance(source, VqaModel) else VqaModel.load(source)

    @property
    def fingerprint(self) -> str:
        """Of wording, questions and model."""
        return f"{self.name}/1/{QUESTION.format('')}/{self._asked}/{self.vqa.fingerprint}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) float32 for N x 3 x H x W images and their prompts.

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs`; or a prompt has no questions.
        """
        texts = check_pairs(self.name, images, prompts)
        owners, questions = [], []
        for place, text in enumerate(texts):
            if (reason := self.hindrance(text)) is not None:
                raise InputError(reason)
            asked = self.records[text].questions
            owners += [place] * len(asked)
            questions += [QUESTION.replace("{}", question.strip()) for question in asked]
        chances = self.vqa.probabilities(images[owners], questions, (YES, NO))
        says_yes = (chances[:, 0] > chances[:, 1]).float()
        own = torch.tensor(owners)
        sums = torch.zeros(len(texts)).index_add(0, own, says_yes)
        return sums / torch.bincount(own, minlength=len(texts))

    def hindrance(self, prompt: str) -> str | None:
        """Why an image of this prompt cannot be scored, if so."""
        record = self.records.get(prompt)
        if record is None or not record.questions:
            return "the prompt has no yes/no questions; give a suite that has them for this text (--suite)"
        return None

    def to(self, device: str) -> "QuestionRate":
        """Move the weights; returns itself."""
        self.vqa.to(device)
        return self
