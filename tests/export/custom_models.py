"""Factories for `--custom`: small forms of those in examples/models/, and wrong ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg
from open_clip.transformer import TextTransformer
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from torch import nn
from transformers import MPNetConfig, PreTrainedTokenizerFast

from examples.models import mixers as mixers_example
from examples.models import mpnet
from export.source.custom import CustomModel
from tests.export.models import WORDS

SIZE, VECTORS = 32, 16
TEXT = {"context_length": 24, "width": 32, "heads": 2, "layers": 2, "output_dim": VECTORS}


def mixers() -> CustomModel:
    return mixers_example.clip(
        mixers_example.Sizes(
            image_size=32, patch_size=8, context_length=16, width=32, blocks=2, vectors=24
        )
    )


def save_mpnet(folder: Path) -> None:
    """What examples/models/mpnet.py reads, of a tiny MPNet with MPNet's own special tokens."""
    words = ("<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys(WORDS.split()))
    inner = Tokenizer(
        tokenizer_models.WordLevel({word: at for at, word in enumerate(words)}, "<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    config = MPNetConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    config.save_pretrained(folder)
    torch.manual_seed(2)
    image, text = mpnet.encoders(config)
    both = nn.ModuleDict({"image": image, "text": text})
    save_file(both.state_dict(), folder / "clip.safetensors")


def own_text_transformer() -> CustomModel:
    """With OpenCLIP's text transformer, which can be packed."""
    return _model(Flat(VECTORS), TextTransformer(**TEXT))


class Flat(nn.Module):
    """An image encoder of one layer."""

    def __init__(self, vectors: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIZE * SIZE, vectors)

    def forward(self, pictures: torch.Tensor) -> Any:
        return self.layer(pictures.flatten(1))


class Tuple(Flat):
    def forward(self, pictures: torch.Tensor) -> Any:
        return super().forward(pictures), None


def unequal() -> CustomModel:
    return _model(Flat(VECTORS + 1), TextTransformer(**TEXT))


def two_outputs() -> CustomModel:
    return _model(Tuple(VECTORS), TextTransformer(**TEXT))


def other_pictures() -> CustomModel:
    return replace(own_text_transformer(), preprocessing=PreprocessCfg(size=SIZE + 1))


def oblong() -> CustomModel:
    return replace(own_text_transformer(), preprocessing=PreprocessCfg(size=(SIZE, 2 * SIZE)))


def openclip_model() -> Any:
    return open_clip.tokenizer.SimpleTokenizer()


def failing() -> CustomModel:
    raise RuntimeError("no weights\nat all")


def _model(image: nn.Module, text: nn.Module) -> CustomModel:
    return CustomModel(
        "own", image, text, SimpleTokenizer(context_length=24), PreprocessCfg(size=SIZE)
    )
