"""`POST /v1/embeddings/image`: encoded images as they are, one as the body or several as files."""

import re
import time
from collections.abc import Iterable, Mapping

import numpy as np
from fastapi import Request, Response
from starlette.datastructures import Headers

from gateway.errors import MalformedRequest, quoted
from gateway.models.values import Embedded, ImageItem
from gateway.pipeline import requests
from gateway.pipeline.engine import Engine
from gateway.rest import answers
from gateway.rest.forms import Forms
from gateway.rest.intake import FORM, RAW, Intake, Work
from gateway.rest.schemas import ImageQuery

PACKED = "application/octet-stream"
FORM_DATA = "multipart/form-data"


class UploadRoutes:
    """Embeds images without base64."""

    def __init__(self, engine: Engine, intake: Intake, max_items: int) -> None:
        self._engine = engine
        self._intake = intake
        self._forms = Forms(max_items, tuple(ImageQuery.model_fields))

    async def embeddings(self, request: Request) -> Response:
        """`Accept: application/octet-stream` answers packed little-endian float32."""
        multiple = FORM if _kind(request.headers) == FORM_DATA else RAW
        async with self._intake.work(request, images=True, multiple=multiple) as work:
            images, fields = await self._images(request.headers, work)
            asked = work.check(ImageQuery, _once(request.query_params.multi_items(), fields))
            ask = requests.Embed(asked.model or None, images, asked.dimensions)
            embedded = await self._engine.embed(ask, work.deadline, work.timings)
            if _accepts_packed(request.headers.get("accept", "")):
                return _packed(embedded, work)
            content = {
                "id": f"embd-{work.request_id}",
                "object": "list",
                "created": int(time.time()),
                "data": answers.embedding_objects(embedded, asked.encoding_format),
                "model": asked.model or embedded.manifest.id,
                "usage": answers.usage(0, embedded.images),
            }
            return answers.answer(content, embedded.manifest, work.timings)

    async def _images(self, headers: Headers, work: Work) -> tuple[list[ImageItem], dict[str, str]]:
        """The images, and the fields of a form."""
        kind = _kind(headers)
        if kind == FORM_DATA:
            form = await self._forms.read(headers, work.body)
            images = [ImageItem(file, f"files[{index}]") for index, file in enumerate(form.files)]
            return images, form.fields
        if kind and kind != PACKED and not kind.startswith("image/"):
            raise MalformedRequest(
                f"content-type {quoted(kind)}: send an image (image/* or {PACKED}) "
                "or multipart/form-data"
            )
        return [ImageItem(work.body, "body")], {}


def _kind(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


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
    headers = answers.headers(embedded.manifest, work.timings)
    return Response(
        np.ascontiguousarray(embedded.vectors, dtype="<f4").tobytes(),
        media_type=PACKED,
        headers=headers | {"x-embedding-shape": f"{rows},{size}"},
    )
