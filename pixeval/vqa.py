"""Models that answer questions about images, asked for the probability of an answer."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import to_uint8
from pixeval.pretrained import load_model, load_processor
from pixeval.weight_files import digest

YES = ("Yes", "yes", " Yes", " yes")
NO = ("No", "no", " No", " no")
"""Forms of an answer; vocabularies differ in which of them are one token."""
PLAIN = "Question: {} Answer:"
"""Around a question for models that have no chat template (BLIP-2, InstructBLIP)."""
BATCH = 16
"""Questions in one forward pass."""


class VqaModel:
    """An image-text-to-text model of transformers (LLaVA, Qwen-VL, BLIP-2, InstructBLIP and others).

    On the CPU it computes in float32, on CUDA in bfloat16, in which such models are published.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.tokenizer = processor.tokenizer
        # A decoder goes on from the last token, so padding comes before the first. For an encoder it comes at the end:
        # between the image tokens and the text, T5 would count it in their distance.
        encodes = model.config.get_text_config().is_encoder_decoder
        self.tokenizer.padding_side = "right" if encodes else "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        template = str(getattr(processor, "chat_template", None) or PLAIN)
        self._name = f"{type(model).__name__}-{digest(model.state_dict())}-{_short(template)}"

    @classmethod
    def load(cls, source: str) -> "VqaModel":
        """From a local folder or by hub name; loaded once however many metrics ask with it.

        Raises:
            InputError: see :func:`pixeval.pretrained.load_model`.
        """
        return _loaded(source)

    @property
    def fingerprint(self) -> str:
        """Of architecture, weights, chat template and precision."""
        return self._name if self.dtype == torch.float32 else f"{self._name}-{str(self.dtype).removeprefix('torch.')}"

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        first: Tensor = next(self.model.parameters())
        return first.dtype

    def to(self, device: str) -> "VqaModel":
        """Move the weights, in the precision of the device; returns itself."""
        self.model.to(device, torch.bfloat16 if device.startswith("cuda") else torch.float32)
        return self

    def probabilities(self, images: Tensor, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> Tensor:
        """How probable it is that the answer begins with one of the given words.

        Args:
            images: N x 3 x H x W in [0, 1].
            questions: one per image, complete as the model shall read them; nothing is cut off.
            answers: A groups of forms of one answer, such as ``(YES, NO)``; the forms of a group add up.

        Returns:
            N x A float32 on the CPU, each in [0, 1].

        Raises:
            InputError: a question is longer than the model's context, or no form of an answer is one token.
        """
        tokens = [self._tokens(forms) for forms in answers]
        rows = []
        for start in range(0, len(questions), BATCH):
            part = slice(start, start + BATCH)
            chances = self._next_token(images[part], questions[part])
            rows.append(torch.stack([chances[:, group].sum(1) for group in tokens], 1))
        return torch.cat(rows).cpu()

    def _next_token(self, images: Tensor, questions: Sequence[str]) -> Tensor:
        pictures = [Image.fromarray(array) for array in to_uint8(images)]
        texts = [self._wrap(question) for question in questions]
        inputs = self.processor(images=pictures, text=texts, padding=True, return_tensors="pt")
        length, room = inputs["input_ids"].shape[1], self._context()
        if room is not None and length >= room:
            raise InputError(f"the question has {length} tokens with its image; the model's context is {room}")
        inputs = inputs.to(self.model.device, self.dtype)
        with torch.no_grad():
            answer = self.model.generate(
                **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        chances: Tensor = answer.logits[0].float().softmax(-1)
        return chances

    def _wrap(self, question: str) -> str:
        if not getattr(self.processor, "chat_template", None):
            return PLAIN.format(question)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return text

    def _tokens(self, forms: Sequence[str]) -> list[int]:
        encoded = [self.tokenizer(form, add_special_tokens=False).input_ids for form in forms]
        tokens = sorted({ids[0] for ids in encoded if len(ids) == 1} - {self.tokenizer.unk_token_id})
        if not tokens:
            raise InputError(f"the model's vocabulary has no single token for {' or '.join(map(repr, forms))}")
        return tokens

    def _context(self) -> int | None:
        length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(length) if length else None


@lru_cache(maxsize=1)
def _loaded(source: str) -> VqaModel:
    model = load_model("AutoModelForImageTextToText", source, "the VQA model", dtype="auto")
    processor = load_processor("AutoProcessor", source, "the VQA model")
    if getattr(processor, "tokenizer", None) is None:
        raise InputError(f"the processor of the VQA model {source} has no tokenizer; give the complete model folder")
    return VqaModel(model, processor)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
