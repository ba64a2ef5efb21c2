"""The steps of OpenCLIP's residual attention block, for encoders that skip part of the work."""

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn
from torch.nn import functional


def why_not_in_steps(block: nn.Module) -> str | None:
    """Reason why these steps do not reproduce a block, or None."""
    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return f"its blocks are of another kind ({type(block).__name__})"
    attention = block.attn
    if (
        type(attention) is not nn.MultiheadAttention
        or attention.in_proj_weight is None
        or attention.bias_k is not None
        or attention.add_zero_attn
    ):
        return "its attention projects queries, keys and values by other means"
    return None


def projection(attention: nn.MultiheadAttention, rows: slice) -> nn.Linear:
    """Slice the part of `in_proj` that makes the queries, or the keys and values.

    It becomes a layer of its own: a weight sliced in `forward` would be sliced in each run.
    """
    weight, bias = attention.in_proj_weight[rows], attention.in_proj_bias
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach())
    if bias is not None:
        linear.bias = nn.Parameter(bias[rows].detach())
    return linear


def attend(
    heads: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend within each row.

    Args:
        heads: Number of heads.
        query: float32 [rows, n, width].
        key: float32 [rows, length, width].
        value: The same shape.
        mask: float32, added to the scores [rows, heads, n, length].

    Returns:
        float32 [rows, n, width], before the output projection.
    """
    query, key, value = (
        torch.unflatten(each, -1, (heads, -1)).transpose(1, 2) for each in (query, key, value)
    )
    return (
        functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
    )


def finish(block: ResidualAttentionBlock, hidden: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Apply the rest of a block to its input `hidden` and attention's result `seen`."""
    hidden = hidden + block.ls_1(block.attn.out_proj(seen))
    out: torch.Tensor = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
    return out
