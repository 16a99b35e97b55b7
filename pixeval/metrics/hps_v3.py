"""Human preference score v3 (Ma et al. 2025, arXiv 2508.03789): a vision-language model with a reward token and a head.

The text that is put around the prompt belongs to the weights and is read from their folder. As in the authors' program,
every token, those of the image included, has a plain running position.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.images import to_uint8
from pixeval.metrics.arguments import check_pairs
from pixeval.pretrained import load_model, load_processor
from pixeval.weight_files import digest, read_weights

REWARD_TOKEN = "<|Reward|>"
PLACE = "{text_prompt}"
"""Where the prompt goes in ``instruction.txt``."""
HEAD_LAYERS = ("0", "3", "5")
"""Names of the head's linear maps in the state dict; between them ReLU, and dropout in training."""
PIXELS = 256 * 28 * 28
"""To which the authors' program resizes every image, large or small, as nearly as its shape and whole patches allow."""


class HpsV3:
    """The mean of the preference that the model predicts (it predicts a deviation too). Higher is better, unbounded.

    The published model gives about 0 to 15. Compares images of one prompt. It computes in float32 on the CPU and in
    bfloat16 on CUDA, the head in float32.
    """

    name = "hpsv3"

    def __init__(self, source: str) -> None:
        """``source``: folder with the published weights as ``model*.safetensors`` (``rm_head.*`` among them), the
        configuration, processor and tokenizer of its Qwen2-VL with the token ``<|Reward|>`` added, and
        ``instruction.txt``.

        Raises:
            InputError: a file is missing or does not fit.
        """
        self.instruction = _instruction(Path(source))
        self.processor = load_processor("AutoProcessor", source, self.name)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "right"
        found = self.tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
        if found is None or found == self.tokenizer.unk_token_id:
            raise InputError(f"the tokenizer in {source} has no token {REWARD_TOKEN}; add it as the authors do")
        self.reward_token = int(found)
        self.model = load_model("Qwen2VLForConditionalGeneration", source, self.name, dtype="auto")
        self.head = _head(Path(source), self.model.config.get_text_config().hidden_size)
        self.to("cpu")
        told = hashlib.sha256(self.instruction.encode()).hexdigest()[:6]
        weights = digest({**self.model.state_dict(), **{f"rm_head.{k}": v for k, v in self.head.state_dict().items()}})
        self.fingerprint = f"{self.name}/2/{weights}-{told}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) float32 for N x 3 x H x W images in [0, 1] and their prompts; images go through 8 bits.

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs`, or a prompt with a hindrance.
        """
        texts = check_pairs(self.name, images, prompts)
        for text in texts:
            if (reason := self.hindrance(text)) is not None:
                raise InputError(reason)
        return torch.cat([self._one(images[k : k + 1], text) for k, text in enumerate(texts)])

    def hindrance(self, prompt: str) -> str | None:
        """Why this prompt cannot be scored, if so."""
        marks = [mark for mark in (*self.tokenizer.all_special_tokens, REWARD_TOKEN) if mark and mark in prompt]
        if marks:
            return f"the prompt holds {marks[0]!r}, which means something else to {self.name}"
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        tokens = len(self.tokenizer(self.instruction.replace(PLACE, prompt), verbose=False).input_ids)
        if room is not None and tokens >= room:
            return f"the prompt has {tokens} tokens with its instruction; {self.name} reads {room}"
        return None

    def to(self, device: str) -> "HpsV3":
        """Move the weights, in the precision of the device; returns itself."""
        self.model.to(device, torch.bfloat16 if device.startswith("cuda") else torch.float32)
        self.head.to(device, torch.float32)
        return self

    def _one(self, image: Tensor, prompt: str) -> Tensor:
        """One at a time: images of other shapes have other numbers of tokens."""
        content = [{"type": "image"}, {"type": "text", "text": self.instruction.replace(PLACE, prompt)}]
        message = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        picture = Image.fromarray(to_uint8(image)[0])
        sizes = {"size": {"shortest_edge": PIXELS, "longest_edge": PIXELS}}
        inputs = self.processor(images=[picture], text=[text], images_kwargs=sizes, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        length = inputs["input_ids"].shape[1]
        places = torch.arange(length, device=self.model.device).view(1, 1, -1).expand(3, 1, -1)
        with torch.no_grad():
            hidden = self.model.model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                pixel_values=inputs["pixel_values"].to(self.model.dtype),
                image_grid_thw=inputs["image_grid_thw"],
                position_ids=places,
            ).last_hidden_state
            at = hidden[inputs["input_ids"] == self.reward_token]
            rewards: Tensor = self.head(at.float())
        return rewards[:1, 0]


def _instruction(folder: Path) -> str:
    file = folder / "instruction.txt"
    try:
        text = file.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"hpsv3 needs {file}: the authors' text, {PLACE} where the prompt goes, and {REWARD_TOKEN} ({error})"
        ) from error
    if text.count(PLACE) != 1 or text.count(REWARD_TOKEN) != 1:
        raise InputError(f"{file} must hold {PLACE} and {REWARD_TOKEN}, each once")
    return text


def _head(folder: Path, width: int) -> nn.Sequential:
    """The three linear maps under ``rm_head`` in whichever of the folder's files they are."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = read_weights(file, "hpsv3")
        found |= {name.removeprefix("rm_head."): t for name, t in tensors.items() if name.startswith("rm_head.")}
    names = {f"{layer}.{kind}" for layer in HEAD_LAYERS for kind in ("weight", "bias")}
    if set(found) != names or found["0.weight"].shape[1] != width or len(found["5.weight"]) != 2:
        raise InputError(f"{folder} holds no head of hpsv3 (rm_head.0, 3 and 5); give the published weights, whole")
    first, second = (len(found[f"{layer}.weight"]) for layer in ("0", "3"))
    head = nn.Sequential(
        nn.Linear(width, first), nn.ReLU(), nn.Identity(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 2)
    )
    head.load_state_dict({name: tensor.float() for name, tensor in found.items()})
    return head.eval().requires_grad_(False)
