"""Traces both encoders of a checkpoint to FP32 graphs, at the served shapes."""

from dataclasses import dataclass

import torch

from export.source import encoders, graph
from export.source.checkpoint import Checkpoint
from export.source.graph import Graph
from export.source.packed import PackedTextEncoder
from gateway.models.manifest import IMAGE_FEATURES, TEXT_FEATURES, golden_pixels

_EXAMPLES = ["a cat", "a photo of two dogs"]  # a trace needs any two items


def image_graph(checkpoint: Checkpoint) -> Graph:
    """Trace the image encoder, uint8 [n, S, S, 3] -> float32 unit vectors [n, D].

    Raises:
        GraphError: It cannot be exported.
    """
    rules = checkpoint.preprocessing
    encoder = encoders.image_encoder(checkpoint.model, rules).eval()
    pixels = torch.from_numpy(golden_pixels(rules.image_size)).expand(2, -1, -1, -1).contiguous()
    return graph.trace(encoder, pixels, IMAGE_FEATURES)


@dataclass(frozen=True, slots=True)
class TextGraphs:
    """The text encoder by token length; lengths may share a graph, and a packed graph takes any."""

    by_length: dict[int, Graph]
    packed: bool = False


def packed_text(checkpoint: Checkpoint, wanted: tuple[int, ...]) -> TextGraphs:
    """Trace the packed text encoder, int32 [n, any length] -> float32 unit vectors [n, D].

    `why_not_packed` must return None for the model, which is measured at the `wanted` token lengths
    and at its full context.

    Raises:
        GraphError: It cannot be exported.
    """
    ids = checkpoint.tokenizer(_EXAMPLES).to(torch.int32)
    encoder = PackedTextEncoder(checkpoint.model).eval()
    lengths = encoders.token_lengths(wanted, ids.shape[1], any_length=True)
    shared = graph.trace_any_length(encoder, ids, TEXT_FEATURES)
    return TextGraphs(dict.fromkeys(lengths, shared), packed=True)


def text_graphs(checkpoint: Checkpoint, pad_id: int, wanted: tuple[int, ...]) -> TextGraphs:
    """Trace the text encoder, int32 [n, length] -> float32 unit vectors [n, D], by token length.

    The `wanted` lengths are ignored if the encoder accepts the full context only.

    Raises:
        GraphError: It cannot be exported.
    """
    ids = checkpoint.tokenizer(_EXAMPLES).to(torch.int32)
    any_length = encoders.why_full_length_only(checkpoint.model, pad_id) is None
    lengths = encoders.token_lengths(wanted, ids.shape[1], any_length=any_length)
    encoder = encoders.text_encoder(checkpoint.model, pad_id).eval()
    return TextGraphs(graph.trace_text(encoder, ids, lengths, TEXT_FEATURES))
