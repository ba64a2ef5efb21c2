"""`POST /v1/embeddings/image`: images without base64, as the body itself or as files of a form."""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers

from gateway.errors import MalformedRequest, quoted
from gateway.models.values import Embedded, ImageItem
from gateway.pipeline import requests
from gateway.pipeline.engine import Engine
from gateway.rest import convert
from gateway.rest.endpoint import Endpoint
from gateway.rest.endpoints.embeddings import EmbeddingsResponse, answer
from gateway.rest.endpoints.encodings import check_packed
from gateway.rest.fields import Dimensions, EmbeddingType, ModelName
from gateway.rest.forms import is_form, media_type, read_form
from gateway.rest.intake import FORM, RAW, Intake, Work
from gateway.rest.openapi import image_body

PACKED = "application/octet-stream"


class ImageQuery(BaseModel):
    """The query string of an image upload."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName = None
    dimensions: Dimensions = None
    encoding_format: EmbeddingType = Field("float", description="As in `/v1/embeddings`.")


class UploadEndpoint(Endpoint):
    """A route whose body is an image or a form."""

    async def handle(self, engine: Engine, intake: Intake, request: Request) -> Response:
        """Let a request in, and answer it. Raises: As `Intake.work` and `Work.run`."""
        multiple = FORM if is_form(request.headers) else RAW
        async with intake.work(request, images=self.images, multiple=multiple) as work:
            return await self.answer(engine, work, request)


@UploadEndpoint.at(
    "/v1/embeddings/image",
    "Embed images without base64",
    ImageQuery,
    EmbeddingsResponse,
    images=True,
    body=image_body(ImageQuery),
)
async def embed_images(engine: Engine, work: Work, request: Request) -> Response:
    """`Accept: application/octet-stream` answers packed little-endian float32."""
    images, fields = await _images(request.headers, work, engine.limits.max_items)
    options = work.check(ImageQuery, _once(request.query_params.multi_items(), fields))
    encoding = options.encoding_format
    check_packed({encoding}, options.dimensions, "dimensions", options.model, engine)
    inference_request = requests.Embed(options.model, images, options.dimensions)
    embedded = await work.run(engine.embed(inference_request, work.record))
    if _accepts_packed(request.headers.get("accept", "")):
        return _packed(embedded, work)
    return await answer(embedded, encoding, work)


async def _images(
    headers: Headers, work: Work, max_items: int
) -> tuple[list[ImageItem], dict[str, str]]:
    """The images, and the fields of a form."""
    if is_form(headers):
        form = await read_form(headers, work.body, max_items, tuple(ImageQuery.model_fields))
        images = [ImageItem(file, f"files[{index}]") for index, file in enumerate(form.files)]
        return images, form.fields
    kind = media_type(headers)
    if kind and kind != PACKED and not kind.startswith("image/"):
        raise MalformedRequest(
            f"content-type {quoted(kind)}: send an image (image/* or {PACKED}) "
            "or multipart/form-data"
        )
    return [ImageItem(work.body, "body")], {}


def _once(query: Iterable[tuple[str, str]], fields: Mapping[str, str]) -> dict[str, str]:
    """What the query and the form say; neither may say a thing twice."""
    found: dict[str, str] = {}
    for name, value in (*query, *fields.items()):
        if name in found:
            raise MalformedRequest(f"{quoted(name)}: given twice", param=name)
        found[name] = value
    return found


def _accepts_packed(accept: str) -> bool:
    """Whether a header of Accept names the packed form, and not with a weight of nothing."""
    for each in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in each.split(";"))
        if kind == PACKED:
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False


def _packed(embedded: Embedded, work: Work) -> Response:
    rows, size = embedded.vectors.shape
    headers = convert.headers(embedded.manifest, work.record)
    return Response(
        np.ascontiguousarray(embedded.vectors, dtype="<f4").tobytes(),
        media_type=PACKED,
        headers=headers | {"x-embedding-shape": f"{rows},{size}"},
    )
