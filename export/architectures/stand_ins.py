"""Stand-ins for what configurations read from the hub: text encoders and tokenizers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    M2M100Config,
    MT5Config,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from export.errors import ExportError

_XLM_R = {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1}
_NLLB = {"vocab_size": 256206, "d_model": 1024}
_MT5 = {"vocab_size": 250112, "feed_forward_proj": "gated-gelu"}
# Text encoders on the hub, in their published sizes.
TEXT_CONFIGS: dict[str, Any] = {
    "roberta-base": RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    "xlm-roberta-base": XLMRobertaConfig(**_XLM_R),
    "xlm-roberta-large": XLMRobertaConfig(
        **_XLM_R, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
        intermediate_size=4096,
    ),
    "google/mt5-base": MT5Config(**_MT5, d_model=768, d_ff=2048, num_layers=12, num_heads=12),
    "google/mt5-xl": MT5Config(**_MT5, d_model=2048, d_ff=5120, num_layers=24, num_heads=32),
    "facebook/nllb-200-distilled-600M": M2M100Config(
        **_NLLB, encoder_layers=12, decoder_layers=12, encoder_ffn_dim=4096, decoder_ffn_dim=4096
    ),
    "facebook/nllb-200-distilled-1.3B": M2M100Config(
        **_NLLB, encoder_layers=24, decoder_layers=24, encoder_ffn_dim=8192, decoder_ffn_dim=8192
    ),
}  # fmt: skip


def write_stand_ins(text: Mapping[str, Any], folder: Path) -> tuple[Path | None, Path | None]:
    """Write what the configuration reads from the hub; return `--tokenizer, --text-config`."""
    tokenizer = folder / "tokenizer" if text.get("hf_tokenizer_name") else None
    if tokenizer:
        _tokenizer().save_pretrained(tokenizer)
    name = text.get("hf_model_name")
    if name is None:
        return tokenizer, None
    if name not in TEXT_CONFIGS:
        raise ExportError(f"there is no stand-in here for the text encoder {name!r}")
    TEXT_CONFIGS[name].save_pretrained(folder / "text-config")
    return tokenizer, folder / "text-config"


def _tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of a few words."""
    words = ("<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "two", "small", "red", "cars")
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)
