"""The JSON bodies of requests, as pydantic models; the OpenAPI document is made from them.

Their examples can be sent as they are to the demo model.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from gateway.rest.fields import (
    EmbeddingType,
    Flag,
    Input,
    InputItem,
    LateChunking,
    Message,
    ModelName,
    Name,
    NameOrStrings,
    Normalized,
    RawScores,
    Request,
    Strings,
)

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


class EmbeddingsRequest(Request):
    """OpenAI's request, and what NV-CLIP's, infinity's, Jina's and vLLM's clients send."""

    model_config = ConfigDict(json_schema_extra={"examples": EMBEDDINGS})

    model: ModelName = None
    input: Input | None = Field(
        None,
        description="Text or image, or a list of them: a string, `data:image/...;base64,...`, "
        '`{"text": ...}` or `{"image": ...}`.',
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=1)] | None = Field(
        None, description="In place of `input`, vLLM's form: one message, one text or image."
    )
    modality: Literal["text", "image"] | None = Field(
        None,
        description="What the strings of `input` are; if left out, those that begin with "
        "`data:image/` or `data:...;base64,` are images and all others texts.",
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="`float` (default), or `base64` of little-endian float32."
    )
    embedding_type: EmbeddingType | None = Field(
        None,
        description="Jina's name for the same, in place of `encoding_format`; `binary` (int8) and "
        "`ubinary` (uint8) pack the signs of eight entries into one number.",
    )
    dimensions: int | None = Field(
        None, ge=1, description="Number of leading entries to keep, scaled to unit length."
    )
    truncate: Flag | None = Field(
        True,
        description="Cut text over the context length; `false` or `NONE` makes it an error.",
    )
    truncation: bool | None = Field(
        None, description="Another name of `truncate`; `false` in either makes it an error."
    )
    on_error: Literal["fail", "skip"] | None = Field(
        "fail", description="`skip`: a bad item becomes an error object in its place."
    )
    normalized: Normalized = Field(True, description="Jina's; vectors always have unit length.")
    late_chunking: LateChunking = Field(
        False, description="Jina's; each item is embedded by itself."
    )
    task: str | None = Field(None, description="Jina's; not used: CLIP has no task prefixes.")
    input_type: str | None = Field(None, description="NVIDIA's; not used, as `task`.")
    user: str | None = Field(None, description="OpenAI's end-user id; not used.")


class _OfImages(Request):
    image: str | None = Field(
        None,
        min_length=1,
        description="One image: `data:image/...;base64,...`, base64 alone, or an http(s) URL where "
        "this service fetches those.",
    )
    images: Strings | None = Field(None, description="Several images, in place of `image`.")


class ZeroShotRequest(_OfImages):
    """Images to classify by labels."""

    model_config = ConfigDict(json_schema_extra={"examples": ZERO_SHOT})

    model: ModelName = None
    labels: Strings | None = Field(None, description="What to choose among; or `label_set`.")
    label_set: Name | None = Field(
        None, description="A set of labels with templates that the service holds."
    )
    templates: NameOrStrings | None = Field(
        None,
        description="Texts with `{}` where the label goes, or the name of a template set; a "
        "label's vector is the mean over them. If left out, labels are taken as they are.",
    )
    top_k: int | None = Field(
        None, ge=1, description="Number of labels to return per image, best first; all if left out."
    )


class SimilarityRequest(_OfImages):
    """Texts and images to compare, each with each."""

    model_config = ConfigDict(json_schema_extra={"examples": SIMILARITY})

    model: ModelName = None
    texts: Strings


class RerankRequest(Request):
    """Documents to order by their likeness to a query; each may be text or image."""

    model_config = ConfigDict(json_schema_extra={"examples": RERANK})

    model: ModelName = None
    query: InputItem
    documents: Annotated[list[InputItem], Field(min_length=1, fail_fast=True)]
    top_n: int | None = Field(None, ge=1, description="Number of documents to return, best first.")
    return_documents: bool | None = Field(
        False, description="Send the documents back with their scores."
    )
    raw_scores: RawScores = Field(False, description="infinity's; a score is the cosine.")


class ImageQuery(BaseModel):
    """The query string of an image upload."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName = None
    dimensions: int | None = Field(
        None, ge=1, description="Number of leading entries to keep, scaled to unit length."
    )
    encoding_format: EmbeddingType = Field("float", description="As in `/v1/embeddings`.")
