"""Requests for the OpenAPI document that can be sent as they are to the demo model."""

from pydantic import JsonValue

RED_CIRCLE = (  # a drawn scene of 24 x 24 pixels
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABgAAAAYAQMAAADaua+7AAAABlBMVEXcHh7w8PCzSAylAAAAN0lEQVR42"
    "m3MQQ2AMBQFwekLQpCCM1KUVUqFkH7uwGFvk21FvLsoZTmzjNzm15DNnjiUiq79vB6wqwyjJRBJ5AAAAABJRU5ErkJggg=="
)
EMBEDDINGS: list[JsonValue] = [
    {"model": "demo", "input": "a photo of a red circle.", "dimensions": 4},
    {"model": "demo", "input": ["a photo of a red circle.", RED_CIRCLE], "dimensions": 4},
    {
        "model": "demo",
        "input": [{"text": "a red circle"}, {"image": RED_CIRCLE}],
        "encoding_format": "base64",
    },
]
ZERO_SHOT: list[JsonValue] = [
    {
        "model": "demo",
        "image": RED_CIRCLE,
        "labels": ["red circle", "blue star", "green square"],
        "templates": ["a photo of a {}."],
        "top_k": 2,
    }
]
SIMILARITY: list[JsonValue] = [
    {"model": "demo", "texts": ["red circle", "blue star"], "images": [RED_CIRCLE]}
]
RERANK: list[JsonValue] = [
    {
        "model": "demo",
        "query": "a photo of a red circle.",
        "documents": ["a blue star", {"image": RED_CIRCLE}],
        "top_n": 1,
    }
]
