"""Fields that several of TEI's requests have."""

from collections.abc import Sized
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.errors import MalformedRequest
from gateway.rest import fields
from gateway.rest.endpoints.tei.problems import EMPTY


def _from_the_right(value: object) -> object:
    if value in ("left", "Left"):
        raise ValueError("must be Right: text is cut at its end")
    return value


def _no_prompts(value: object) -> None:
    if value is not None:
        raise ValueError("must be null: CLIP has no prompts; write them into the text")


Truncate = Annotated[
    bool | None,
    Field(description="`false` makes text over the context length an error; else it is cut."),
]
Direction = Annotated[Literal["Right", "right"] | None, BeforeValidator(_from_the_right)]
Prompt = Annotated[None, Field(description="There are none."), BeforeValidator(_no_prompts)]
Model = Annotated[fields.ModelName, Field(description="Not TEI's: as in `/v1/embeddings`.")]


def check_given(given: Sized, name: str) -> None:
    """Check that a list is not empty. Raises MalformedRequest: it is."""
    if not given:
        raise MalformedRequest(f"`{name}` cannot be empty", param=name, code=EMPTY)


def texts(given: str | list[str], name: str) -> list[str]:
    """The text or texts of a field. Raises MalformedRequest: there is none."""
    if isinstance(given, str):
        return [given]
    check_given(given, name)
    return given
