"""OpenCLIP's vision transformer with a last block that runs for the class token only.

If only the class token is pooled, the last block needs the keys and values of the other tokens, but
neither their queries nor their output projection and MLP.
"""

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn
from torch.nn import functional

from export.source.blocks import attend, finish, projection, why_not_in_steps


class LastBlock(nn.Module):
    """float32 [n, tokens, width] -> float32 [n, 1, width], the block's output for token 0."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        """Share the weights of a block."""
        super().__init__()
        self.block, width = block, block.attn.embed_dim
        self.query = projection(block.attn, slice(0, width))
        self.key_value = projection(block.attn, slice(width, 3 * width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Attend from the first token to all tokens."""
        block, first = self.block, tokens[:, :1]
        key, value = self.key_value(block.ln_1(tokens)).chunk(2, dim=-1)
        # A separate norm: SmoothQuant folds scales only into a norm that only layers read.
        query = self.query(block.ln_1(first))
        return finish(block, first, attend(block.attn.num_heads, query, key, value))


class ClassTokenEncoder(nn.Module):
    """float32 [n, 3, S, S] -> float32 [n, D], as the wrapped vision transformer computes it."""

    def __init__(self, visual: VisionTransformer) -> None:
        """Wrap the transformer of a model for which `why_all_tokens` returns None."""
        super().__init__()
        self.visual = visual
        self.last = LastBlock(visual.transformer.resblocks[-1])

    def encode_image(self, pictures: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Encode normalised pictures, as OpenCLIP's method of this name does."""
        tokens = self.visual._embeds(pictures)
        for block in self.visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
        features: torch.Tensor
        features, _ = self.visual._pool(self.last(tokens))
        if self.visual.proj is not None:
            features = features @ self.visual.proj
        return functional.normalize(features, dim=-1) if normalize else features


def why_all_tokens(model: nn.Module) -> str | None:
    """Reason why the last block of the image encoder must run for all tokens, or None."""
    visual: Any = model.visual
    if type(visual) is not VisionTransformer:
        return f"{type(visual).__name__} is not OpenCLIP's own vision transformer"
    if visual.attn_pool is not None or visual.pool_type != "tok":
        return "it does not pool its class token"
    if visual.output_tokens:
        return "it returns its tokens as well"
    return why_not_in_steps(visual.transformer.resblocks[-1])
