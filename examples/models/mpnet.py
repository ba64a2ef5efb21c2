"""A CLIP of timm's ViT-B/16 and all-mpnet-base-v2, for `python -m export --custom`.

    CLIP_FOLDER=/models/mpnet-clip python -m export --custom examples.models.mpnet:clip

The folder holds MPNet's `config.json`, the files of its tokenizer, and `clip.safetensors`.
"""

import os
from pathlib import Path

import timm
import torch
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg
from safetensors.torch import load_file
from torch import nn
from transformers import MPNetConfig, MPNetModel

from export.source.custom import CustomModel

IMAGE_MODEL = "vit_base_patch16_224"
CONTEXT_LENGTH = 128  # tokens
VECTORS = 512  # numbers in a vector


class ImageEncoder(nn.Module):
    """float32 [n, 3, S, S] -> float32 [n, VECTORS]."""

    def __init__(self) -> None:
        """Project the features of a model of timm."""
        super().__init__()
        self.trunk = timm.create_model(IMAGE_MODEL, num_classes=0)
        self.projection = nn.Linear(self.trunk.num_features, VECTORS, bias=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Encode normalised pictures."""
        vectors: torch.Tensor = self.projection(self.trunk(pictures))
        return vectors


class TextEncoder(nn.Module):
    """int64 [n, length] -> float32 [n, VECTORS]: the mean over the tokens that are not padding."""

    def __init__(self, config: MPNetConfig) -> None:
        """Project the features of MPNet, whose attention has biases by relative position."""
        super().__init__()
        self.trunk = MPNetModel(config, add_pooling_layer=False)
        self.projection = nn.Linear(config.hidden_size, VECTORS, bias=False)
        self.pad_id = config.pad_token_id

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Encode padded token ids."""
        mask = token_ids != self.pad_id
        hidden = self.trunk(token_ids, attention_mask=mask.long()).last_hidden_state
        kept = mask[:, :, None].float()
        vectors: torch.Tensor = self.projection((hidden * kept).sum(1) / kept.sum(1))
        return vectors


def encoders(config: MPNetConfig) -> tuple[ImageEncoder, TextEncoder]:
    """Make both encoders, with random weights."""
    return ImageEncoder(), TextEncoder(config)


def clip() -> CustomModel:
    """Make the model in the folder $CLIP_FOLDER."""
    folder = Path(os.environ["CLIP_FOLDER"])
    image, text = encoders(MPNetConfig.from_pretrained(folder))
    weights = load_file(folder / "clip.safetensors")
    nn.ModuleDict({"image": image, "text": text}).load_state_dict(weights)
    rules = image.trunk.default_cfg
    return CustomModel(
        name="mpnet-clip",
        image=image,
        text=text,
        tokenizer=HFTokenizer(str(folder), context_length=CONTEXT_LENGTH),
        preprocessing=PreprocessCfg(rules["input_size"][-1], mean=rules["mean"], std=rules["std"]),
        pretrained=folder.name,
        any_length=True,  # attention and mean leave the padding out
    )
