"""What the fields of requests hold: texts, images, lists of them, messages, and shared names."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
)


class Request(BaseModel):
    """Strict: a wrong type or an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextObject(Request):
    """A text."""

    text: str = Field(min_length=1)


class ImageObject(Request):
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


TAGS = {"string", "text", "image", "list", "image_url"}  # appear in pydantic's error locations

_String = Annotated[str, Field(min_length=1), Tag("string")]
_Text = Annotated[TextObject, Tag("text")]
_Image = Annotated[ImageObject, Tag("image")]

InputItem = Annotated[
    _String | _Text | _Image,
    Discriminator(
        _item_kind,
        custom_error_type="input_item",
        custom_error_message='Input should be a string, {"text": ...} or {"image": ...} '
        "(token ids are not taken)",
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


def _text_or_list(value: object) -> str | None:
    return "string" if isinstance(value, str) else "list" if isinstance(value, list) else None


def _to_flag(value: object) -> object:
    return {"END": True, "NONE": False}.get(value, value) if isinstance(value, str) else value


StringOrStrings = Annotated[
    _String | Annotated[Strings, Tag("list")],
    Discriminator(
        _text_or_list,
        custom_error_type="string_or_list",
        custom_error_message="Input should be a string or a list of strings",
    ),
]
Flag = Annotated[  # NVIDIA's services know END and NONE, in place of true and false
    bool,
    BeforeValidator(_to_flag),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["END", "NONE"]}]}),
]
ModelName = Annotated[
    str | None, Field(description="Model id or alias; may be left out if one is served.")
]
EmbeddingType = Literal["float", "base64", "binary", "ubinary"]


class TextPart(Request):
    """A text of a message."""

    type: Literal["text"]
    text: str = Field(min_length=1)


class ImageUrl(Request):
    """Where an image is."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Not used.")


class ImagePart(Request):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(Request):
    """A chat message with one text or one image."""

    role: str = Field(description="Not used.")
    content: Annotated[
        _String
        | Annotated[
            list[Annotated[TextPart | ImagePart, Discriminator("type")]],
            Field(min_length=1, max_length=1, description="One: CLIP embeds one thing at a time."),
            Tag("list"),
        ],
        Discriminator(
            _text_or_list,
            custom_error_type="content",
            custom_error_message="Input should be a string or a list of one part",
        ),
    ]
