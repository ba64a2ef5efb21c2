"""What goes out over REST, as pydantic models; the OpenAPI document is made from them."""

from typing import Literal

from pydantic import BaseModel, Field


class Usage(BaseModel):
    """What was embedded. Padding is not counted."""

    prompt_tokens: int
    total_tokens: int
    num_images: int


class EmbeddingObject(BaseModel):
    """One embedding, of unit length."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | list[int] | str = Field(
        description="Floats; base64 of little-endian float32; or, for `binary` and `ubinary`, "
        "packed signs."
    )
    truncated: bool | None = Field(None, description="`true` where text was cut; else left out.")


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str = Field(description="Of what kind it is, in OpenAI's words.")
    param: str | None = Field(description="The field that it is about, such as `input[3]`.")
    code: str = Field(description="A stable word for programs, such as `invalid_image`.")


class FailedObject(BaseModel):
    """What stands in the place of a bad item, where `on_error` is `skip`."""

    object: Literal["error"] = "error"
    index: int
    error: ErrorObject


class EmbeddingsResponse(BaseModel):
    """OpenAI's answer."""

    id: str = Field(description="Made of the request's id.")
    object: Literal["list"] = "list"
    created: int = Field(description="Seconds since 1970.")
    data: list[EmbeddingObject | FailedObject]
    model: str
    usage: Usage


class PredictionObject(BaseModel):
    """One label with its score."""

    label: str
    index: int = Field(description="Of the label in the request, or in its label set.")
    score: float = Field(description="Softmax over the labels; for SigLIP models a sigmoid.")
    cosine: float


class ImagePredictions(BaseModel):
    """The labels of one image, best first."""

    index: int = Field(description="Of the image in the request.")
    predictions: list[PredictionObject]


class ZeroShotResponse(BaseModel):
    """Predictions for every image, in the order of the request."""

    object: Literal["zero_shot"] = "zero_shot"
    model: str
    results: list[ImagePredictions]
    truncated: bool | None = Field(
        None, description="`true` if a label in its template was cut; else left out."
    )
    usage: Usage


class SimilarityResponse(BaseModel):
    """Every image compared with every text."""

    object: Literal["similarity"] = "similarity"
    model: str
    cosine: list[list[float]] = Field(description="A row for each image, a column for each text.")
    logits_per_image: list[list[float]] = Field(
        description="`logit_scale * cosine`, with `logit_bias` added for SigLIP models."
    )
    logits_per_text: list[list[float]] = Field(description="The same, a row for each text.")
    truncated: list[int] | None = Field(
        None, description="Indices of texts that were cut; left out where none was."
    )
    usage: Usage


class DocumentObject(BaseModel):
    """A document, as it was sent."""

    text: str | None = None
    image: str | None = None


class RankedObject(BaseModel):
    """One document with its relevance."""

    index: int = Field(description="Of the document in the request.")
    relevance_score: float = Field(description="The cosine with the query, -1 to 1.")
    document: DocumentObject | None = Field(None, description="With `return_documents` only.")


class RerankResponse(BaseModel):
    """Jina's and Cohere's answer."""

    id: str = Field(description="Made of the request's id.")
    object: Literal["rerank"] = "rerank"
    model: str
    results: list[RankedObject] = Field(description="Best first.")
    truncated: bool | None = Field(
        None, description="`true` if the query or a document was cut; else left out."
    )
    usage: Usage


class GateObject(BaseModel):
    """How the model did against OpenCLIP in PyTorch FP32 when it was exported."""

    passed: bool = Field(description="`false`: published all the same, by `--allow-failing`.")
    failures: list[str] = Field(description="What fell short, one line each.")
    image_min_cosine: float
    text_min_cosine: float
    zero_shot_accuracy: float | None = Field(
        description="On the labelled set that it was measured on, 0 to 1; `null` without one."
    )
    pytorch_zero_shot_accuracy: float | None


class ModelObject(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When it was exported, in seconds since 1970.")
    owned_by: Literal["openclip-triton"] = "openclip-triton"
    aliases: list[str] = Field(description="Its other names.")
    default: bool = Field(description="Whether requests that name no model are for it.")
    version: int
    fingerprint: str = Field(description="Equal fingerprints: vectors may be compared.")
    open_clip_name: str
    pretrained: str | None = Field(description="`null`: random weights, good for tests alone.")
    precision: str
    runtime: str
    gate: GateObject
    embedding_size: int
    context_length: int
    token_lengths: list[int] = Field(
        description="Lengths that text is padded to; empty: nothing is padded."
    )
    image_size: int
    scoring: Literal["softmax", "sigmoid"]


class ModelsResponse(BaseModel):
    """The served models, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class LiveResponse(BaseModel):
    """The process runs."""

    status: Literal["live"]


class ModelState(BaseModel):
    """Whether one model gives right answers."""

    ready: bool
    default: bool = Field(description="Whether requests that name no model are for it.")
    problems: list[str] = Field(description="What stands in the way, one line each.")


class ReadyResponse(BaseModel):
    """Right answers can be given."""

    status: Literal["ready"]
    models: dict[str, ModelState] = Field(description="The state of each served model, by its id.")


class ErrorResponse(BaseModel):
    """Every error, whatever raised it."""

    error: ErrorObject


class NotReadyResponse(ErrorResponse):
    """Right answers cannot be given."""

    models: dict[str, ModelState] = Field(description="The state of each served model, by its id.")
