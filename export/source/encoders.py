"""The two encoders of an OpenCLIP model, as PyTorch modules with the served inputs and outputs."""

from typing import Any, TypeAlias

import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import nn
from torch.nn import functional

from export.source.last_block import ClassTokenEncoder, why_all_tokens
from gateway.models.manifest import Preprocessing


class CustomClip(nn.Module):
    """Two custom encoders, with the methods of OpenCLIP's models."""

    def __init__(self, image: nn.Module, text: nn.Module, *, any_length: bool) -> None:
        """Hold both encoders; `any_length`: padding does not change a text's vector."""
        super().__init__()
        self.visual, self.text = image, text
        self._any_length = any_length  # private: without effect on the fingerprint

    @property
    def any_length(self) -> bool:
        """Whether the text encoder may run below its full length."""
        return self._any_length

    def encode_image(self, pictures: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """float32 [n, 3, S, S], normalised -> float32 [n, D]."""
        features: torch.Tensor = self.visual(pictures)
        return functional.normalize(features, dim=-1) if normalize else features

    def encode_text(self, token_ids: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """int64 [n, length] -> float32 [n, D]."""
        features: torch.Tensor = self.text(token_ids)
        return functional.normalize(features, dim=-1) if normalize else features


OpenClipModel: TypeAlias = CLIP | CustomTextCLIP | CoCa  # or CustomClip


class ImageEncoder(nn.Module):
    """uint8 [n, S, S, 3] -> float32 unit vectors [n, D]."""

    mean: torch.Tensor  # float32 [1, 3, 1, 1], of RGB in [0, 1]
    std: torch.Tensor

    def __init__(self, model: OpenClipModel | ClassTokenEncoder, rules: Preprocessing) -> None:
        """Wrap `model.encode_image` with the arithmetic of `ToTensor` and `Normalize`."""
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(rules.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(rules.std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode resized and cropped RGB pictures."""
        # The cast comes first: TensorRT allows nothing else on a UINT8 input.
        picture = pixels.to(torch.float32).permute(0, 3, 1, 2) / 255.0
        features = self.model.encode_image((picture - self.mean) / self.std, normalize=False)
        return functional.normalize(features.float(), dim=-1)


def image_encoder(model: OpenClipModel, rules: Preprocessing) -> ImageEncoder:
    """Make the image encoder; its last block runs for one token only if that is exact."""
    return ImageEncoder(model if why_all_tokens(model) else ClassTokenEncoder(model.visual), rules)


class TextEncoder(nn.Module):
    """int32 [n, context_length] -> float32 unit vectors [n, D]."""

    def __init__(self, model: OpenClipModel) -> None:
        """Wrap `model.encode_text`."""
        super().__init__()
        self.model = model

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Encode token ids padded to the full context."""
        features = self.model.encode_text(token_ids.long(), normalize=False)
        return functional.normalize(features.float(), dim=-1)


class CausalTextEncoder(nn.Module):
    """int32 [n, length] -> float32 unit vectors [n, D], for any length up to the context.

    With a causal mask and pooling at the end token, later tokens have no effect, so text needs less
    padding. `open_clip.CLIP.encode_text` accepts the full length only; this module cuts its
    positional embedding and mask to the length of the input.
    """

    def __init__(self, model: OpenClipModel) -> None:
        """Wrap the text part of `open_clip.CLIP`, or `CustomTextCLIP.text`."""
        super().__init__()
        self.text = text = text_part(model)
        self.pool_type, self.eos_id = pool_type(text), eos_id(text)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Encode token ids of any equal length; each row has its end token."""
        text, ids = self.text, token_ids.long()
        length = ids.shape[1]
        hidden = text.token_embedding(ids) + text.positional_embedding[:length]
        hidden = text.transformer(hidden, attn_mask=text.attn_mask[:length, :length])
        # int32 ids: ONNX Runtime 1.19 has no ArgMax of int64.
        pooled = text_global_pool(text.ln_final(hidden), token_ids, self.pool_type, self.eos_id)
        return functional.normalize(projected(text, pooled).float(), dim=-1)


def why_full_length_only(model: OpenClipModel, pad_id: int) -> str | None:
    """Reason why the text encoder cannot be served below its full length, or None."""
    if isinstance(model, CustomClip) and model.any_length:
        return None
    return why_padding_counts(model, pad_id)


def why_padding_counts(model: OpenClipModel, pad_id: int) -> str | None:
    """Reason why tokens after the end token may change a text's vector, or None."""
    text = text_part(model)
    if not isinstance(text, CLIP | TextTransformer):
        return f"{type(text).__name__} is not one of OpenCLIP's own text transformers"
    if text.attn_mask is None:
        return "its attention is not causal"
    if getattr(text, "cls_emb", None) is not None or getattr(text, "use_pad_mask", False):
        return "it appends a class token or masks the padding"
    if getattr(text, "output_tokens", False):
        return "it returns its tokens as well"
    pool = pool_type(text)
    if pool not in ("argmax", "eos"):
        return f"it pools with {pool!r} instead of at the end token"
    if pad_id == eos_id(text) if pool == "eos" else pad_id != 0:
        return "its padding token can be taken for the end token"
    return None


def text_encoder(model: OpenClipModel, pad_id: int) -> nn.Module:
    """Make the text encoder: for any length if that is exact, else as the model runs it."""
    return TextEncoder(model) if why_padding_counts(model, pad_id) else CausalTextEncoder(model)


def token_lengths(
    wanted: tuple[int, ...], context_length: int, *, any_length: bool
) -> tuple[int, ...]:
    """List the token lengths to serve, rising and ending with the full context.

    Args:
        wanted: Lengths of 2 or more; those at or over the context length are dropped.
        context_length: In tokens.
        any_length: Whether the encoder accepts less than the full length.
    """
    short = {length for length in wanted if 2 <= length < context_length} if any_length else set()
    return (*sorted(short), context_length)


def text_part(model: OpenClipModel) -> Any:  # noqa: ANN401 (CLIP, or whatever module it holds)
    """The module with the text encoder's layers."""
    return model.text if isinstance(model, CustomTextCLIP | CustomClip) else model


def pool_type(text: CLIP | TextTransformer) -> str:
    """OpenCLIP's method of pooling the tokens of a text."""
    return str(text.text_pool_type if isinstance(text, CLIP) else text.pool_type)


def eos_id(text: CLIP | TextTransformer) -> int:
    """Id of the end token, where a text is pooled at it."""
    return int(text.text_eos_id if isinstance(text, CLIP) else text.eos_id)


def projected(text: CLIP | TextTransformer, pooled: torch.Tensor) -> torch.Tensor:
    """Project pooled tokens [..., width] to vectors [..., D], as OpenCLIP does."""
    if isinstance(text.text_projection, nn.Linear):
        pooled = text.text_projection(pooled)
    elif text.text_projection is not None:
        pooled = pooled @ text.text_projection
    return pooled
