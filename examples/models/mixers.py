"""A CLIP whose image and text encoders are both MLP-Mixers, for `python -m export --custom`.

    CLIP_WEIGHTS=mixers.safetensors python -m export --custom examples.models.mixers:clip

A text mixer has weights for each place of a text: it runs at its full length only.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg
from safetensors.torch import load_file
from timm.models.mlp_mixer import MixerBlock, MlpMixer
from torch import nn

from export.source.custom import CustomModel


@dataclass(frozen=True)
class Sizes:
    """The sizes of both mixers."""

    image_size: int = 224
    patch_size: int = 16
    context_length: int = 32
    width: int = 512
    blocks: int = 12
    vectors: int = 512


def image_mixer(sizes: Sizes) -> nn.Module:
    """Make the image encoder, float32 [n, 3, S, S] -> float32 [n, vectors]."""
    trunk = MlpMixer(
        num_classes=0,
        img_size=sizes.image_size,
        patch_size=sizes.patch_size,
        num_blocks=sizes.blocks,
        embed_dim=sizes.width,
    )
    return nn.Sequential(trunk, nn.Linear(sizes.width, sizes.vectors, bias=False))


class TextMixer(nn.Module):
    """int64 [n, context length] -> float32 [n, vectors], the mean over all places."""

    def __init__(self, vocabulary: int, sizes: Sizes) -> None:
        """Embed the tokens, then mix places and channels in turn."""
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, sizes.width)
        self.blocks = nn.Sequential(
            *(MixerBlock(sizes.width, sizes.context_length) for _ in range(sizes.blocks))
        )
        self.norm = nn.LayerNorm(sizes.width)
        self.projection = nn.Linear(sizes.width, sizes.vectors, bias=False)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Encode token ids padded to the full context."""
        hidden = self.norm(self.blocks(self.tokens(token_ids)))
        vectors: torch.Tensor = self.projection(hidden.mean(dim=1))
        return vectors


def clip(sizes: Sizes = Sizes()) -> CustomModel:
    """Make the model, with the weights in the file $CLIP_WEIGHTS; random ones without it."""
    tokenizer = SimpleTokenizer(context_length=sizes.context_length)
    image, text = image_mixer(sizes), TextMixer(tokenizer.vocab_size, sizes)
    weights = os.environ.get("CLIP_WEIGHTS")
    if weights:
        nn.ModuleDict({"image": image, "text": text}).load_state_dict(load_file(weights))
    return CustomModel(
        name="mixers",
        image=image,
        text=text,
        tokenizer=tokenizer,
        preprocessing=PreprocessCfg(size=sizes.image_size),
        pretrained=Path(weights).stem if weights else None,
    )
