"""Small OpenCLIP models of each kind, as JSON configurations and folders."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, register_model
from timm.models.mlp_mixer import MlpMixer
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import BertConfig, PreTrainedTokenizerFast

CLIP_TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
WORDS = "a photo of cat dog two small red cars beside an old stone bridge in the evening"


def vit() -> dict[str, Any]:
    return {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": CLIP_TEXT}


def quickgelu() -> dict[str, Any]:
    """With the activation of OpenAI's weights."""
    return {**vit(), "quick_gelu": True}


def resnet() -> dict[str, Any]:
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
    return {"embed_dim": 48, "vision_cfg": vision, "text_cfg": CLIP_TEXT}


def timm_vision(name: str, size: int, pool: str = "", proj: str = "linear") -> dict[str, Any]:
    """An image encoder of timm."""
    kind = {"timm_model_name": name, "timm_model_pretrained": False}
    return {**kind, "timm_pool": pool, "timm_proj": proj, "image_size": size}


def timm() -> dict[str, Any]:
    vision = timm_vision("test_convnext", 64)
    text = {**CLIP_TEXT, "pool_type": "argmax", "proj_bias": True}
    return {"embed_dim": 32, "custom_text": True, "vision_cfg": vision, "text_cfg": text}


def tiny_mixer(**options: Any) -> Any:
    """MLP-Mixer, smaller than those that timm knows."""
    size = {"img_size": 64, "patch_size": 16, "num_blocks": 2, "embed_dim": 64}
    return build_model_with_cfg(MlpMixer, "mixer_s32_224", **(options | size))


register_model(tiny_mixer)


def mixer() -> dict[str, Any]:
    vision = timm_vision("tiny_mixer", 64)
    return {"embed_dim": 32, "vision_cfg": vision, "text_cfg": CLIP_TEXT}


def coca() -> dict[str, Any]:
    vision = {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {**CLIP_TEXT, "embed_cls": True, "output_tokens": True}
    return {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": text,
        "multimodal_cfg": {**CLIP_TEXT, "attn_pooler_heads": 2},
    }


def siglip(tokenizer: str) -> dict[str, Any]:
    text = {
        "context_length": 16,
        "vocab_size": 64,
        "hf_tokenizer_name": tokenizer,
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    }
    return {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {**VIT, "pool_type": "avg"},
        "text_cfg": text,
    }


def siglip2(tokenizer: str) -> dict[str, Any]:
    """SigLIP, with timm's attention pooling and the GELU that SigLIP2's text encoder has."""
    config = siglip(tokenizer)
    vision = timm_vision("test_vit", 160, "map", "none")
    text = {**config["text_cfg"], "width": 64, "act_kwargs": {"approximate": "tanh"}}
    return {**config, "embed_dim": 64, "vision_cfg": vision, "text_cfg": text}


def hf_text(folder: str) -> dict[str, Any]:
    text = {
        "hf_model_name": folder,
        "hf_tokenizer_name": folder,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
        "context_length": 16,
    }
    return {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": text}


def write_config(folder: Path, name: str, config: dict[str, Any]) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    return path


def save_tokenizer(folder: Path, pad: str = "</s>") -> Path:
    """A T5-like tokenizer of a few words and letters, with `</s>` at the end."""
    letters = [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    known = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab = [*known, *((f"▁{word}", -3.0) for word in WORDS.split()), *letters]
    inner = Tokenizer(tokenizer_models.Unigram(vocab, 2, byte_fallback=False))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    special = {"eos_token": "</s>", "pad_token": pad, "unk_token": "<unk>", "sep_token": "</s>"}
    outer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    outer.save_pretrained(folder)
    return folder


def save_hf_text(folder: Path) -> Path:
    """A folder with a tiny BERT's configuration, and a tokenizer."""
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        pad_token_id=0,
    )
    config.save_pretrained(folder)
    return save_tokenizer(folder, pad="<pad>")


def save_folder(folder: Path, config: Path, preprocess: dict[str, Any]) -> Path:
    """OpenCLIP's own folder layout, with random weights, for `local-dir:`."""
    folder.mkdir(exist_ok=True)
    content = {"model_cfg": json.loads(config.read_text()), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_weights(folder / "open_clip_model.safetensors", config, seed=5)
    return folder


def save_weights(path: Path, config: Path, seed: int, *, half: bool = False) -> Path:
    """A checkpoint file for a configuration; `half` rounds it to what FP16 can hold."""
    open_clip.add_model_config(config)
    torch.manual_seed(seed)
    model = open_clip.create_model(config.stem, pretrained_text=False)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if half:
        weights = {name: tensor.half() for name, tensor in weights.items()}
    save_file(weights, path)
    return path
