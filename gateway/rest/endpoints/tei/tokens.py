"""`/tokenize` and `/decode`: between texts and token ids."""

from typing import Annotated, cast

import orjson
from fastapi import Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag

from gateway.models.registry import Model
from gateway.models.values import Tokens
from gateway.pipeline import requests
from gateway.pipeline.concurrency import in_thread_if_large
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields
from gateway.rest.endpoints.tei import fields as teis
from gateway.rest.endpoints.tei.problems import TeiEndpoint
from gateway.rest.intake import Work

TOKEN_VALUES = 16  # numbers of a vector that take no longer than one token


class TeiTokenizeRequest(fields.Request):
    """TEI's request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "a red circle"}]})

    inputs: fields.Texts
    model: teis.Model = None
    add_special_tokens: bool | None = Field(
        True, description="Also name the start and end tokens, which every text gets."
    )
    prompt_name: teis.Prompt = None


class SimpleToken(BaseModel):
    """A token."""

    id: int
    text: str = Field(description="As the model reads it: clean, and in lower case if so trained.")
    special: bool
    start: None = Field(None, description="Not known: text is cleaned before it is tokenized.")
    stop: None = None


class TeiTokenizeResponse(RootModel[list[list[SimpleToken]]]):
    """The tokens of each text, cut at the context length as for embeddings."""


def _one_or_several(value: object) -> str:
    several = isinstance(value, list) and (not value or isinstance(value[0], list))
    return "<lists>" if several else "<list>"


class TeiDecodeRequest(fields.Request):
    """TEI's request: the ids of one text, or of several."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [320, 736, 13, 49407]}]})

    ids: Annotated[
        Annotated[fields.NotEmptyList[fields.TokenId], Tag("<list>")]
        | Annotated[
            fields.NotEmptyList[Annotated[list[fields.TokenId], Field(fail_fast=True)]],
            Tag("<lists>"),
        ],
        Discriminator(_one_or_several),
    ]
    model: teis.Model = None
    skip_special_tokens: bool | None = True


class TeiDecodeResponse(RootModel[list[str]]):
    """The text of each list of ids."""


@TeiEndpoint.at(
    "/tokenize",
    "Tokenize texts, in TEI's shape",
    TeiTokenizeRequest,
    TeiTokenizeResponse,
    images=False,
)
async def tei_tokenize(engine: Engine, work: Work, body: TeiTokenizeRequest) -> Response:
    """The tokens that an embedding of the text is made of."""
    texts = convert.texts(teis.texts(body.inputs, "inputs"), "inputs")
    inference_request = requests.Tokenize(body.model, texts)
    model, found = await work.run(engine.tokenize(inference_request, work.record))
    rows = await described(model, found, special=body.add_special_tokens is not False)
    return convert.answer(rows, model.manifest, work.record)


async def described(model: Model, found: list[Tokens], *, special: bool) -> list[orjson.Fragment]:
    """The tokens of each text, as JSON; many of them in a thread."""
    values = TOKEN_VALUES * sum(len(each.ids) for each in found)
    return await in_thread_if_large(_described, model, found, special, values=values)


def _described(model: Model, found: list[Tokens], special: bool) -> list[orjson.Fragment]:
    return convert.fragments(
        [
            {"id": id_, "text": text, "special": is_special, "start": None, "stop": None}
            for id_, text, is_special in model.tokenizer.described(tokens)
            if special or not is_special
        ]
        for tokens in found
    )


@TeiEndpoint.at(
    "/decode",
    "Turn token ids into texts, in TEI's shape",
    TeiDecodeRequest,
    TeiDecodeResponse,
    images=False,
)
async def tei_decode(engine: Engine, work: Work, body: TeiDecodeRequest) -> Response:
    """The texts that tokens stand for."""
    teis.check_given(body.ids, "ids")
    ids = cast("list[list[int]]", body.ids if isinstance(body.ids[0], list) else [body.ids])
    inference_request = requests.Decode(body.model, ids, body.skip_special_tokens is not False)
    model, texts = await work.run(engine.decode(inference_request, work.record))
    return convert.answer(texts, model.manifest, work.record)
