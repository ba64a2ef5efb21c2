"""`/tokenize`, `/decode` and `/info` in the shapes of text-embeddings-inference."""

from collections.abc import Mapping
from typing import Annotated, Literal, cast

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag

from gateway.errors import GatewayError
from gateway.inference.capacity import MAX_CALL_TOKENS
from gateway.models.registry import Model, Models
from gateway.models.values import TextItem, Tokens
from gateway.pipeline import requests
from gateway.pipeline.concurrency import in_thread_if_large
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields
from gateway.rest.endpoint import Endpoint, add_get
from gateway.rest.endpoints import tei
from gateway.rest.intake import Intake

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class TeiTokenizeRequest(fields.Request):
    """TEI's request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "a red circle"}]})

    inputs: fields.Texts
    model: tei.Model = None
    add_special_tokens: bool | None = Field(
        True, description="Also name the start and end tokens, which every text gets."
    )
    prompt_name: tei.Prompt = None


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
        Annotated[
            list[fields.TokenId],
            Field(fail_fast=True, json_schema_extra={"minItems": 1}),
            Tag("<list>"),
        ]
        | Annotated[
            list[Annotated[list[fields.TokenId], Field(fail_fast=True)]],
            Field(fail_fast=True, json_schema_extra={"minItems": 1}),
            Tag("<lists>"),
        ],
        Discriminator(_one_or_several),
    ]
    model: tei.Model = None
    skip_special_tokens: bool | None = True


class TeiDecodeResponse(RootModel[list[str]]):
    """The text of each list of ids."""


class EmbeddingModel(BaseModel):
    """What TEI says of an embedding model."""

    pooling: Literal["clip"] = Field(description="The model's own.")


class ModelType(BaseModel):
    """What kind of model it is."""

    embedding: EmbeddingModel


class InfoResponse(BaseModel):
    """The default model and the limits, in TEI's shape; `/v1/models` says more."""

    model_id: str
    model_sha: str = Field(description="The fingerprint: where it is equal, vectors compare.")
    model_dtype: str = Field(description="The precision.")
    model_type: ModelType
    max_concurrent_requests: int
    max_input_length: int = Field(description="The context length, in tokens.")
    max_batch_tokens: int
    max_batch_requests: None = None
    max_client_batch_size: int
    auto_truncate: Literal[True]
    tokenization_workers: int
    version: str = Field(description="This service's.")
    sha: None = None
    docker_label: None = None


@tei.in_teis_words
async def tei_tokenize(engine: Engine, intake: Intake, request: Request) -> Response:
    """The tokens that an embedding of the text is made of."""
    async with intake.work(request, images=False) as work:
        body = await work.parse(TeiTokenizeRequest)
        texts = [
            TextItem(text, f"inputs[{index}]")
            for index, text in enumerate(tei.texts(body.inputs, "inputs"))
        ]
        model, found = await work.run(
            engine.tokenize(requests.Tokenize(body.model or None, texts), work.record)
        )
        rows = await in_thread_if_large(
            _described, model, found, body.add_special_tokens is not False,
            values=sum(len(each.ids) for each in found),
        )  # fmt: skip
        return convert.answer(rows, model.manifest, work.record)


def _described(model: Model, found: list[Tokens], special: bool) -> list[orjson.Fragment]:
    """The tokens of each text, as JSON by itself, so that other threads run in between."""
    return [
        convert.fragment(
            [
                {"id": id_, "text": text, "special": is_special, "start": None, "stop": None}
                for id_, text, is_special in model.tokenizer.described(tokens)
                if special or not is_special
            ]
        )
        for tokens in found
    ]


@tei.in_teis_words
async def tei_decode(engine: Engine, intake: Intake, request: Request) -> Response:
    """The texts that tokens stand for."""
    async with intake.work(request, images=False) as work:
        body = await work.parse(TeiDecodeRequest)
        tei.check_given(body.ids, "ids")
        ids = cast("list[list[int]]", body.ids if isinstance(body.ids[0], list) else [body.ids])
        wanted = requests.Decode(body.model or None, ids, body.skip_special_tokens is not False)
        model, texts = await work.run(engine.decode(wanted, work.record))
        return convert.answer(texts, model.manifest, work.record)


def router(models: Models, limits: Mapping[str, object]) -> APIRouter:
    """`GET /info`; `limits` are the fields of the answer that depend on settings."""

    async def info(request: Request) -> Response:
        """The default model and the limits; `/v1/models` says more."""
        try:
            manifest = models.find(None).manifest
        except GatewayError as error:
            return tei.problem(error, request)
        content = {
            "model_id": manifest.id,
            "model_sha": manifest.fingerprint,
            "model_dtype": _DTYPES.get(manifest.precision, manifest.precision),
            "model_type": {"embedding": {"pooling": "clip"}},
            "max_input_length": manifest.tokenizer.context_length,
            "max_batch_tokens": MAX_CALL_TOKENS,
            "max_batch_requests": None,
            "auto_truncate": True,
            "sha": None,
            "docker_label": None,
        }
        return convert.plain({**content, **limits})

    made = APIRouter()
    add_get(
        made, "/info", info, "The default model and the limits, in TEI's shape", InfoResponse,
        401, 404, 422, tag="models", failed=tei.TeiErrorResponse,
    )  # fmt: skip
    return made


TEI_TOKENIZE = Endpoint(
    "/tokenize",
    "Tokenize texts, in TEI's shape",
    tei_tokenize,
    TeiTokenizeRequest,
    TeiTokenizeResponse,
    failures=tei.TEIS_FAILURES,
    failed=tei.TeiErrorResponse,
)
TEI_DECODE = Endpoint(
    "/decode",
    "Turn token ids into texts, in TEI's shape",
    tei_decode,
    TeiDecodeRequest,
    TeiDecodeResponse,
    failures=tei.TEIS_FAILURES,
    failed=tei.TeiErrorResponse,
)
