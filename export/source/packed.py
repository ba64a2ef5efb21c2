"""A text encoder without padding."""

from typing import NamedTuple

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn
from torch.nn import functional

from export.source.blocks import attend, finish, projection, why_not_in_steps
from export.source.encoders import (
    OpenClipModel,
    eos_id,
    pool_type,
    projected,
    text_part,
    why_padding_counts,
)


class _Places(NamedTuple):
    """Maps between rows of tokens [rows, length] and the kept tokens side by side [tokens]."""

    rows: int
    length: int
    taken: torch.Tensor  # int64 [tokens], the place of each kept token in its rows
    spread: torch.Tensor  # int64 [rows * length], the token of each place
    ends: torch.Tensor  # int64 [rows], the tokens that end a row

    @classmethod
    def until(cls, ends: torch.Tensor, length: int) -> "_Places":
        """Keep each row up to its end token."""
        rows = ends.shape[0]
        kept = (torch.arange(length) <= ends[:, None]).reshape(-1)
        taken = kept.nonzero().reshape(-1)
        torch._check(taken.shape[0] >= 1)
        # The place of a dropped token takes the token before: no kept query attends to it.
        spread = kept.long().cumsum(0) - 1
        last = spread.reshape(rows, length).gather(1, ends[:, None]).reshape(-1)
        return cls(rows, length, taken, spread, last)

    def apart(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, tokens, width] -> [rows, length, width]."""
        return hidden.index_select(1, self.spread).reshape(self.rows, self.length, -1)

    def together(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, length, width] -> [1, tokens, width]."""
        return hidden.reshape(1, self.rows * self.length, -1).index_select(1, self.taken)


class PackedTextEncoder(nn.Module):
    """int32 [n, length] -> float32 unit vectors [n, D], for any length up to the context.

    Tokens after the end token have no effect (see `CausalTextEncoder`) and are dropped: the tokens
    of all rows lie side by side, [1, tokens, width], and only attention works row by row. Only the
    end tokens are pooled, so the last block runs for them alone. Rows of unequal length thus share
    a batch, each at the cost of its own tokens.
    """

    def __init__(self, model: OpenClipModel) -> None:
        """Wrap a model for which `why_not_packed` returns None."""
        super().__init__()
        self.text = text = text_part(model)
        self.by_id = pool_type(text) == "eos"
        self.eos_id = eos_id(text)
        attention = text.transformer.resblocks[-1].attn
        width = attention.embed_dim
        self.final_query = projection(attention, slice(0, width))
        self.final_key_value = projection(attention, slice(width, 3 * width))

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Encode token ids; each row has its end token, then anything."""
        text, ids = self.text, token_ids.long()
        rows, length = ids.shape
        # Of int32: ONNX Runtime 1.19, in NVIDIA's images up to 24.11, has no ArgMax of int64.
        found = (token_ids == self.eos_id).int() if self.by_id else token_ids
        ends = found.argmax(dim=-1)
        places = _Places.until(ends, length)
        positions = torch.arange(length).expand(rows, length).reshape(-1)
        hidden = text.token_embedding(ids.reshape(-1).index_select(0, places.taken))
        hidden = hidden + text.positional_embedding.index_select(
            0, positions.index_select(0, places.taken)
        )
        # With [1, tokens, width] the layers export as in the other encoders.
        hidden, mask = hidden[None], text.attn_mask[:length, :length]
        *blocks, final = text.transformer.resblocks
        for block in blocks:
            hidden = _block(block, hidden, places, mask)
        masks = mask.index_select(0, ends)[:, None, None]  # [rows, heads, queries, length]
        pooled = text.ln_final(self._final_block(final, hidden, places, masks))
        return functional.normalize(projected(text, pooled)[0].float(), dim=-1)

    def _final_block(
        self,
        block: ResidualAttentionBlock,
        hidden: torch.Tensor,
        places: _Places,
        masks: torch.Tensor,
    ) -> torch.Tensor:
        """The last block, for the end tokens only: [1, tokens, width] -> [1, rows, width]."""
        key, value = places.apart(self.final_key_value(block.ln_1(hidden))).chunk(2, dim=-1)
        last = hidden.index_select(1, places.ends)
        # A separate norm: SmoothQuant folds scales only into a norm that only layers read.
        query = self.final_query(block.ln_1(last)).reshape(places.rows, 1, -1)
        seen = attend(block.attn.num_heads, query, key, value, masks)
        return finish(block, last, seen.reshape(1, places.rows, -1))


def why_not_packed(model: OpenClipModel, pad_id: int) -> str | None:
    """Reason why the text encoder cannot be packed, or None."""
    if reason := why_padding_counts(model, pad_id):
        return reason
    reasons = map(why_not_in_steps, text_part(model).transformer.resblocks)
    return next(filter(None, reasons), None)


def _block(
    block: ResidualAttentionBlock, hidden: torch.Tensor, places: _Places, mask: torch.Tensor
) -> torch.Tensor:
    """`ResidualAttentionBlock.forward` for [1, tokens, width]."""
    attention = block.attn
    joint = functional.linear(block.ln_1(hidden), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = places.apart(joint).chunk(3, dim=-1)
    seen = attend(attention.num_heads, query, key, value, mask)
    return finish(block, hidden, places.together(seen))
