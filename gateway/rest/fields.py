"""What the fields of requests hold: texts, images, lists of them, messages, and shared names."""

from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

RED_CIRCLE = (  # a drawn scene of 24 x 24 pixels
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABgAAAAYAQMAAADaua+7AAAABlBMVEXcHh7w8PCzSAylAAAAN0lEQVR42"
    "m3MQQ2AMBQFwekLQpCCM1KUVUqFkH7uwGFvk21FvLsoZTmzjNzm15DNnjiUiq79vB6wqwyjJRBJ5AAAAABJRU5ErkJggg=="
)

T = TypeVar("T")
OneOrMore = Annotated[list[T], Field(min_length=1, fail_fast=True)]
# Of these only the OpenAPI document says that none may be empty: what reads them says so in its own
# words, and may skip an empty item.
NotEmpty = Annotated[str, Field(json_schema_extra={"minLength": 1})]
NotEmptyList = Annotated[list[T], Field(fail_fast=True, json_schema_extra={"minItems": 1})]


class Request(BaseModel):
    """Strict: a wrong type or an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextObject(Request):
    """A text."""

    text: NotEmpty


class ImageObject(Request):
    """An image: a `data:image/...;base64,` URL, base64 alone, or a URL where those are fetched."""

    image: NotEmpty


class ImageBytes(Request):
    """An image, as LangChain's client of Jina names it."""

    bytes: NotEmpty = Field(description="Another name of `image`.")


class ImageLink(Request):
    """An image, as LangChain's client of Jina names it."""

    url: NotEmpty = Field(description="Another name of `image`.")


def _item_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "<string>"
    if isinstance(value, dict):
        kinds = [kind for key, kind in _KINDS.items() if key in value]
        return kinds[0] if len(kinds) == 1 else None
    return None


def _input_kind(value: object) -> str | None:
    return "<list>" if isinstance(value, list) else _item_kind(value)


_KINDS = {key: f"<{key}>" for key in ("text", "image", "bytes", "url")}
# Appear in pydantic's error locations, where no field is called so.
TAGS = {"<string>", "<list>", "<image_url>", "<documents>", "<texts>", "<lists>", *_KINDS.values()}

_String = Annotated[NotEmpty, Tag("<string>")]
_Text = Annotated[TextObject, Tag("<text>")]
_Image = (
    Annotated[ImageObject, Tag("<image>")]
    | Annotated[ImageBytes, Tag("<bytes>")]
    | Annotated[ImageLink, Tag("<url>")]
)

InputItem = Annotated[
    _String | _Text | _Image,
    Discriminator(
        _item_kind,
        custom_error_type="input_item",
        custom_error_message="Input should be a string, or an object with either `text` or "
        "`image` (token ids are not taken)",
    ),
]
Input = Annotated[
    _String | _Text | _Image | Annotated[OneOrMore[InputItem], Tag("<list>")],
    Discriminator(
        _input_kind,
        custom_error_type="input",
        custom_error_message="Input should be a string, an object with either `text` or `image`, "
        "or a list of them",
    ),
]
Strings = OneOrMore[Annotated[str, Field(min_length=1)]]


def _text_or_list(value: object) -> str | None:
    return "<string>" if isinstance(value, str) else "<list>" if isinstance(value, list) else None


_STRING_OR_LIST = Discriminator(
    _text_or_list,
    custom_error_type="string_or_list",
    custom_error_message="Input should be a string or a list of strings",
)
TextList = NotEmptyList[NotEmpty]
Texts = Annotated[_String | Annotated[TextList, Tag("<list>")], _STRING_OR_LIST]
NAME_CHARACTERS = 256
Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS)]
# `{}` once; a brace may stand elsewhere.
_WITHOUT = r"[^{]*(?:\{+[^{}][^{]*)*"
_TEMPLATE: JsonDict = {"pattern": rf"^{_WITHOUT}\{{+\}}{_WITHOUT}\{{*$"}
_TemplateList = OneOrMore[Annotated[str, Field(min_length=1, json_schema_extra=_TEMPLATE)]]
Templates = Annotated[
    Annotated[Name, Tag("<string>")] | Annotated[_TemplateList, Tag("<list>")],
    _STRING_OR_LIST,
]


def _to_flag(value: object) -> object:
    flag = {"END": True, "NONE": False}.get(value, value) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise PydanticCustomError(
            "flag", "Input should be true, false, `END` (the same as true) or `NONE` (false)"
        )
    return flag


Flag = Annotated[  # NVIDIA's services know END and NONE, in place of true and false
    bool,
    BeforeValidator(_to_flag),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["END", "NONE"]}]}),
]


def _only(allowed: bool, why: str) -> BeforeValidator:
    """Refuse the other value of a flag that clients send, and say why."""

    def check(value: object) -> object:
        if value is not None and value is not allowed:  # 0 is equal to false
            raise ValueError(f"must be {str(allowed).lower()}: {why}")
        return value

    return BeforeValidator(check)


Normalized = Annotated[Literal[True] | None, _only(True, "vectors always have unit length")]
LateChunking = Annotated[
    Literal[False] | None,
    _only(False, "each item is embedded by itself, whatever stands beside it"),
]
RawScores = Annotated[
    Literal[False] | None, _only(False, "the one score that there is, is the cosine")
]
_NO_MODEL = "default/not-specified"  # what infinity's client sends where it was given none
ModelName = Annotated[
    str | None,
    Field(
        max_length=NAME_CHARACTERS,
        description="Model id or alias; may be left out if one is served, or a default is set.",
    ),
    AfterValidator(lambda name: None if name in ("", _NO_MODEL) else name),
]


def _to_whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Integers as JSON Schema has them: 2.0 is one.
Count = Annotated[int, Field(ge=1), BeforeValidator(_to_whole)]
TokenId = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_to_whole)]
SHORTEST_S, LONGEST_S = 3_600, 2_592_000  # that a file may be kept, as OpenAI has it
KeptSeconds = Annotated[int, Field(ge=SHORTEST_S, le=LONGEST_S), BeforeValidator(_to_whole)]
Dimensions = Annotated[
    Annotated[int, Field(ge=0), BeforeValidator(_to_whole)] | None,
    AfterValidator(lambda number: number or None),
    Field(
        description="Number of leading entries to keep, scaled to unit length; 0, as infinity's "
        "client sends, is all."
    ),
]
EmbeddingType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]


class TextPart(Request):
    """A text of a message."""

    type: Literal["text"]
    text: NotEmpty


class ImageUrl(Request):
    """Where an image is."""

    url: NotEmpty
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Not used.")


class ImagePart(Request):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


def _part_kind(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"<{kind}>" if kind in ("text", "image_url") else None


Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[ImagePart, Tag("<image_url>")],
    Discriminator(
        _part_kind,
        custom_error_type="part",
        custom_error_message="Input should be an object whose `type` is `text` or `image_url`",
    ),
]


class Message(Request):
    """A chat message with one text or one image."""

    role: str = Field(description="Not used.")
    content: Annotated[
        _String
        | Annotated[
            list[Part],
            Field(min_length=1, max_length=1, description="One: CLIP embeds one thing at a time."),
            Tag("<list>"),
        ],
        Discriminator(
            _text_or_list,
            custom_error_type="content",
            custom_error_message="Input should be a string or a list of one part",
        ),
    ]


class OfImages(Request):
    """A request with one image or several."""

    image: str | None = Field(
        None,
        min_length=1,
        description="One image: `data:image/...;base64,...`, base64 alone, or an http(s) URL where "
        "this service fetches those.",
    )
    images: Strings | None = Field(None, description="Several images, in place of `image`.")
