"""Published models in small: the same classes and file layouts, random weights fixed by a seed, no download."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from trainers.pretrain.vocabulary import train_tokenizer

CAPTIONS = ("a red apple", "a blue car on a road", "a green tree", "a yellow sun", "a grey cat", "a black dog")
WORDS = "does this figure show please answer or is it there a an the red blue green apple car cat dog tree question"
CHAT = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)


def random_model(kind: type[Any], config: Any, seed: int) -> Any:
    """Weights large enough that different inputs give different outputs."""
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return model.eval()


def images(count: int = 3, height: int = 40, width: int = 48) -> Tensor:
    """8-bit values, so that files and tensors hold the same."""
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(5))
    return pixels.float() / 255


def write_clip(folder: Path, seed: int = 0, context: int = 16) -> Path:
    """A CLIPModel, as PickScore is published."""
    tokenizer = train_tokenizer(CAPTIONS)
    tokenizer.model_max_length = context
    end = tokenizer.eos_token_id
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=sizes
        | {"vocab_size": len(tokenizer), "max_position_embeddings": context, "eos_token_id": end, "pad_token_id": end},
        vision_config=sizes | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    random_model(CLIPModel, config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def write_mps(folder: Path, seed: int = 0) -> Path:
    """A CLIPModel and two layers of each kind that ground it, in one file under the authors' names."""
    write_clip(folder, seed, context=77)
    file = folder / "model.safetensors"
    tensors = {f"model.{name}": tensor for name, tensor in load_file(file).items()}
    tensors["model.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    generator = torch.Generator().manual_seed(seed)
    width, inner, wide = 16, 2 * 64, 4 * 16
    shapes = {
        "0.fn.to_q": (inner, width),
        "0.fn.to_kv": (2 * 64, width),
        "0.fn.to_out": (width, inner),
        "0.fn.ff.0": (2 * wide, width),
        "0.fn.ff.2": (width, wide),
        "1.fn.fused_attn_ff_proj": (inner + 2 * 64 + 2 * wide, width),
        "1.fn.attn_out": (width, inner),
        "1.fn.ff_out.1": (width, wide),
    }
    for layer in range(2):
        own = f"cross_model.layers.{layer}"
        for name, shape in shapes.items():
            tensors[f"{own}.{name}.weight"] = 0.2 * torch.randn(shape, generator=generator)
        for part in ("0", "1"):
            tensors[f"{own}.{part}.fn.norm.weight"] = 1 + 0.2 * torch.randn(width, generator=generator)
            tensors[f"{own}.{part}.fn.norm.bias"] = torch.zeros(width)
        tensors[f"{own}.1.fn.rotary_emb.inv_freq"] = 10000 ** (-torch.arange(0, 64, 2) / 64)
    save_file(tensors, file)
    return folder


def word_tokenizer(**special_tokens: str) -> PreTrainedTokenizerFast:
    """One token a word."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]
    words = [
        *special,
        "Yes",
        "No",
        "yes",
        "no",
        *"?:.\"',",
        "USER",
        "ASSISTANT",
        "Answer",
        "Question",
        "Does",
        "Please",
    ]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*words, *WORDS.split()]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        extra_special_tokens=special_tokens,
    )
    wrapped.add_tokens(list(special_tokens.values()), special_tokens=True)
    return wrapped


def write_llava(folder: Path, seed: int = 0) -> Path:
    """A decoder-only model with a chat template."""
    tokenizer = word_tokenizer(image_token="<image>")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=32, patch_size=8),
        text_config=LlamaConfig(
            **sizes,
            vocab_size=len(tokenizer),
            max_position_embeddings=96,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    random_model(LlavaForConditionalGeneration, config, seed).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


QWEN_MARKS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}


def write_qwen(folder: Path, seed: int = 0) -> Path:
    """A model whose number of image tokens follows from the size of the image."""
    tokenizer = word_tokenizer(**QWEN_MARKS)
    token = {name: tokenizer.convert_tokens_to_ids(mark) for name, mark in QWEN_MARKS.items()}
    sizes = {"hidden_size": 32, "intermediate_size": 48}
    patches = {"patch_size": 8, "spatial_merge_size": 2, "window_size": 32, "fullatt_block_indexes": [1]}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen2_5_VLConfig(
        text_config=sizes
        | heads
        | {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "rope_parameters": rope}
        | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        vision_config=sizes | patches | {"depth": 2, "num_heads": 2, "out_hidden_size": 32},
        image_token_id=token["image_token"],
        video_token_id=token["video_token"],
        vision_start_token_id=token["vision_bos_token"],
        vision_end_token_id=token["vision_eos_token"],
    )
    random_model(Qwen2_5_VLForConditionalGeneration, config, seed).save_pretrained(folder)
    size = {"shortest_edge": 256, "longest_edge": 4096}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=8, merge_size=2, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=8, merge_size=2),
        chat_template=CHAT.replace("<image> ", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)
    return folder


def write_hps_v3(folder: Path, seed: int = 0) -> Path:
    """A Qwen2-VL with a reward token and a head, its image processor as published."""
    tokenizer = word_tokenizer(**QWEN_MARKS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    token = {name: tokenizer.convert_tokens_to_ids(mark) for name, mark in QWEN_MARKS.items()}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = Qwen2VLConfig(
        text_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 512}
        | {"rope_parameters": rope, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        vision_config={"embed_dim": 32, "hidden_size": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
        | {"patch_size": 14, "spatial_merge_size": 2},
        image_token_id=token["image_token"],
        video_token_id=token["video_token"],
        vision_start_token_id=token["vision_bos_token"],
        vision_end_token_id=token["vision_eos_token"],
    )
    random_model(Qwen2VLForConditionalGeneration, config, seed).save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed + 1)
    shapes = {"0": (12, 32), "3": (6, 12), "5": (2, 6)}
    weights = {f"rm_head.{k}.weight": torch.randn(shape, generator=generator) for k, shape in shapes.items()}
    weights |= {f"rm_head.{k}.bias": torch.randn(shape[0], generator=generator) for k, shape in shapes.items()}
    save_file(load_file(folder / "model.safetensors") | weights, folder / "model.safetensors", {"format": "pt"})
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(),  # which by itself keeps the sizes of most images
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT.replace("<image> ", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)
    (folder / "instruction.txt").write_text("does this figure show {text_prompt} ? <|Reward|>\n")
    return folder


def write_blip2(folder: Path, seed: int = 0) -> Path:
    """A model without a chat template, whose language model is an encoder and a decoder (T5)."""
    tokenizer = word_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config=sizes | {"image_size": 32, "patch_size": 8},
        qformer_config=sizes | {"encoder_hidden_size": 32, "vocab_size": 50},
        text_config={"model_type": "t5", "vocab_size": len(tokenizer), "d_model": 32, "d_kv": 16, "d_ff": 48}
        | {"num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 3},
        num_query_tokens=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    random_model(Blip2ForConditionalGeneration, config, seed).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    Blip2Processor(BlipImageProcessor(size=size), tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


def write_owl(folder: Path, seed: int = 0) -> Path:
    """OWLv2 with a context of 16 tokens, as it is published."""
    tokenizer = train_tokenizer(CAPTIONS)
    tokenizer.model_max_length = 16
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config=sizes | {"vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config=sizes | {"image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    random_model(Owlv2ForObjectDetection, config, seed).save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def write_grounding_dino(folder: Path, seed: int = 0) -> Path:
    """Grounding DINO with a Swin backbone and a BERT."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = bert_tokenizer(folder)
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [2, 2, 2, 2],
            "window_size": 4,
            "image_size": 64,
            "out_indices": [2, 3, 4],
        },
        text_config={"model_type": "bert", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48}
        | {"num_hidden_layers": 2, "num_attention_heads": 2},
        num_queries=12,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_text_len=32,
    )
    random_model(GroundingDinoForObjectDetection, config, seed).save_pretrained(folder)
    processor = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def bert_tokenizer(folder: Path) -> BertTokenizer:
    """Writes ``vocab.txt`` there: words, letters and marks."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *"abcdefghijklmnopqrstuvwxyz"]
    words = [*marks, *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), *WORDS.split()]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(words)) + "\n")
    return BertTokenizer.from_pretrained(folder)


def image_reward_tensors(words: int, seed: int = 0, width: int = 128, text_width: int = 192) -> dict[str, Tensor]:
    """A state dict under the authors' names: two blocks of two and three heads, 32-pixel images in patches of 8."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def linear(name: str, out: int, into: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(out, into, generator=generator) / into**0.5
        tensors[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)

    def norm(name: str, size: int) -> None:
        tensors[f"{name}.weight"] = 1 + 0.1 * torch.randn(size, generator=generator)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(size, generator=generator)

    vision, text = "blip.visual_encoder", "blip.text_encoder"
    tensors[f"{vision}.cls_token"] = torch.randn(1, 1, width, generator=generator)
    tensors[f"{vision}.pos_embed"] = torch.randn(1, 17, width, generator=generator)
    tensors[f"{vision}.patch_embed.proj.weight"] = torch.randn(width, 3, 8, 8, generator=generator) / 14
    tensors[f"{vision}.patch_embed.proj.bias"] = torch.randn(width, generator=generator)
    for block in (f"{vision}.blocks.{i}" for i in range(2)):
        norm(f"{block}.norm1", width)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.mlp.fc1", 4 * width, width)
        linear(f"{block}.mlp.fc2", width, 4 * width)
    norm(f"{vision}.norm", width)
    tensors[f"{text}.embeddings.word_embeddings.weight"] = torch.randn(words, text_width, generator=generator)
    tensors[f"{text}.embeddings.position_embeddings.weight"] = torch.randn(48, text_width, generator=generator)
    tensors[f"{text}.embeddings.position_ids"] = torch.arange(48)[None]
    norm(f"{text}.embeddings.LayerNorm", text_width)
    for layer in (f"{text}.encoder.layer.{i}" for i in range(2)):
        for kind, into in (("attention", text_width), ("crossattention", width)):
            linear(f"{layer}.{kind}.self.query", text_width, text_width)
            linear(f"{layer}.{kind}.self.key", text_width, into)
            linear(f"{layer}.{kind}.self.value", text_width, into)
            linear(f"{layer}.{kind}.output.dense", text_width, text_width)
            norm(f"{layer}.{kind}.output.LayerNorm", text_width)
        linear(f"{layer}.intermediate.dense", 4 * text_width, text_width)
        linear(f"{layer}.output.dense", text_width, 4 * text_width)
        norm(f"{layer}.output.LayerNorm", text_width)
    linear("blip.vision_proj", 16, width)
    linear("blip.text_proj", 16, text_width)
    for place, (into, out) in {0: (text_width, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}.items():
        linear(f"mlp.layers.{place}", out, into)
    return tensors


def write_image_reward(folder: Path, seed: int = 0) -> Path:
    """The file of weights, with BERT's vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = bert_tokenizer(folder)
    file = folder / "ImageReward.safetensors"
    save_file(image_reward_tensors(len(tokenizer), seed), file)
    return file
