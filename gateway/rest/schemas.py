"""What goes in and out over REST, as pydantic models; the OpenAPI document comes from them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

DATA_URL_EXAMPLE = "data:image/png;base64,iVBORw0KGgo..."


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextObject(_Request):
    """A text."""

    text: str = Field(min_length=1)


class ImageObject(_Request):
    """An image: a `data:image/...;base64,` URL, or base64 alone."""

    image: str = Field(min_length=1)


def _item_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "string"
    if isinstance(value, dict | TextObject | ImageObject):
        keys = value if isinstance(value, dict) else type(value).model_fields
        return "image" if "image" in keys else "text" if "text" in keys else None
    return None


def _input_kind(value: object) -> str | None:
    return "list" if isinstance(value, list) else _item_kind(value)


TAGS = {"string", "text", "image", "list"}  # appear in pydantic's error locations

_String = Annotated[str, Field(min_length=1), Tag("string")]
_Text = Annotated[TextObject, Tag("text")]
_Image = Annotated[ImageObject, Tag("image")]

InputItem = Annotated[
    _String | _Text | _Image,
    Discriminator(
        _item_kind,
        custom_error_type="input_item",
        custom_error_message='Input should be a string, {"text": ...} or {"image": ...}',
    ),
]
Input = Annotated[
    _String
    | _Text
    | _Image
    | Annotated[list[InputItem], Field(min_length=1, fail_fast=True), Tag("list")],
    Discriminator(
        _input_kind,
        custom_error_type="input",
        custom_error_message="Input should be a string, an object or a list of them",
    ),
]
Strings = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, fail_fast=True)]


class EmbeddingsRequest(_Request):
    """OpenAI's request, with images: a string that begins with `data:image/` is one."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "demo", "input": "a photo of a red circle."}]}
    )

    model: str | None = Field(None, description="Model id; may be left out if one is served.")
    input: Input = Field(
        description="Text or image, or a list of them: a string, `data:image/...;base64,...`, "
        '`{"text": ...}` or `{"image": ...}`.'
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64`: little-endian float32."
    )
    dimensions: int | None = Field(
        None, ge=1, description="Keep so many entries, scaled to unit length again."
    )
    truncate: bool = Field(
        True, description="Cut text over the context length; `false` makes it an error."
    )
    user: str | None = Field(None, description="OpenAI's end-user id; not used.")


class ZeroShotRequest(_Request):
    """Images to classify by labels."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "demo",
                    "image": DATA_URL_EXAMPLE,
                    "labels": ["red circle", "blue star"],
                    "templates": ["a photo of a {}."],
                }
            ]
        }
    )

    model: str | None = Field(None, description="Model id; may be left out if one is served.")
    image: str | None = Field(
        None, min_length=1, description="One image: `data:image/...;base64,...`, or base64 alone."
    )
    images: Strings | None = Field(None, description="Several images, in place of `image`.")
    labels: Strings = Field(description="What to choose among.")
    templates: Strings | None = Field(
        None,
        description="Texts with `{}` where the label goes; a label's vector is the mean over "
        "them. If left out, labels are taken as they are.",
    )
    top_k: int | None = Field(
        None, ge=1, description="Return so many labels per image, the best; all if left out."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "ZeroShotRequest":
        if (self.image is None) == (self.images is None):
            raise ValueError("give either `image` or `images`")
        return self


class Usage(BaseModel):
    """What was embedded. Padding is not counted."""

    prompt_tokens: int
    total_tokens: int
    images: int


class EmbeddingObject(BaseModel):
    """One embedding, of unit length."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Floats, or base64 of little-endian float32.")
    truncated: bool | None = Field(None, description="`true` where text was cut; else left out.")


class EmbeddingsResponse(BaseModel):
    """OpenAI's answer."""

    object: Literal["list"] = "list"
    data: list[EmbeddingObject]
    model: str
    usage: Usage


class PredictionObject(BaseModel):
    """One label with its score."""

    label: str
    index: int = Field(description="Of the label in the request.")
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
    version: int
    fingerprint: str = Field(description="Equal fingerprints: vectors may be compared.")
    open_clip_name: str
    pretrained: str | None = Field(description="`null`: random weights, good for tests alone.")
    precision: str
    runtime: str
    gate: GateObject
    embedding_size: int
    context_length: int
    token_lengths: list[int]
    image_size: int
    scoring: Literal["softmax", "sigmoid"]


class ModelsResponse(BaseModel):
    """The served models, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class StatusResponse(BaseModel):
    """An answer of a probe."""

    status: Literal["live", "ready"]


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The field that it is about, such as `input[3]`.")
    code: str


class ErrorResponse(BaseModel):
    """Every error, whatever raised it."""

    error: ErrorObject
