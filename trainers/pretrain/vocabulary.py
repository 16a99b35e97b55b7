"""A small byte-level BPE for the zoo, stored as a stock ``CLIPTokenizer``.

CLIP's own vocabulary of 49,408 words would take most of the zoo's size. All 256 bytes are in the
vocabulary, so no text is unknown. The end token has the highest id, as open_clip's pooling expects.
"""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

CONTEXT = 24
START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"


def train_tokenizer(captions: Iterable[str], merges: int = 900) -> CLIPTokenizer:
    """Learn at most ``merges`` merges from ``captions``."""
    learner = Tokenizer(BPE(end_of_word_suffix=SUFFIX))
    learner.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=512 + merges, initial_alphabet=letters, end_of_word_suffix=SUFFIX, show_progress=False
    )
    learner.train_from_iterator((caption.lower() for caption in captions), trainer)
    learned = [(left, right) for left, right in _merges(learner)]
    tokens = letters + [letter + SUFFIX for letter in letters]
    tokens += [left + right for left, right in learned if left + right not in set(tokens)]
    vocabulary = {token: index for index, token in enumerate([*dict.fromkeys(tokens), START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=learned, model_max_length=CONTEXT)


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return merges
