"""`POST /v1/embeddings/image`: encoded images as they are, one as the body or several as files."""

import time
from collections.abc import AsyncGenerator

import numpy as np
from fastapi import Request, Response
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from gateway import asks
from gateway.engine import Engine
from gateway.errors import MalformedRequest, TooLarge
from gateway.rest import answers
from gateway.rest.intake import Intake, Work
from gateway.rest.requests import ImageQuery
from gateway.values import Embedded, ImageItem

PACKED = "application/octet-stream"


class UploadRoutes:
    """Embeds images without base64."""

    def __init__(self, engine: Engine, intake: Intake, max_items: int) -> None:
        self._engine = engine
        self._intake = intake
        self._max_items = max_items

    async def embeddings(self, request: Request) -> Response:
        """`Accept: application/octet-stream` answers packed little-endian float32."""
        async with self._intake.work(request, images=True) as work:
            asked = work.check(ImageQuery, dict(request.query_params))
            images = await self._images(request.headers, work)
            ask = asks.Embed(asked.model, images, asked.dimensions)
            embedded = await self._engine.embed(ask, work.deadline, work.timings)
            if PACKED in request.headers.get("accept", ""):
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

    async def _images(self, headers: Headers, work: Work) -> list[ImageItem]:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await self._files(headers, work.body)
        if kind and kind != PACKED and not kind.startswith("image/"):
            raise MalformedRequest(
                f"content-type {kind!r}: send an image (image/* or {PACKED}) or multipart/form-data"
            )
        return [ImageItem(work.body, "body")]

    async def _files(self, headers: Headers, body: bytes) -> list[ImageItem]:
        _, options = parse_options_header(headers["content-type"])
        parts = body.count(b"--" + options.get(b"boundary", b"")) - 1  # the last one ends the form
        if parts > self._max_items:
            raise TooLarge(
                f"files: {parts:,}; the limit (GATEWAY_MAX_ITEMS) is {self._max_items:,}",
                param="files",
            )

        async def stream() -> AsyncGenerator[bytes, None]:
            yield body

        parser = _InMemoryParser(
            headers, stream(), max_files=self._max_items, max_fields=0, max_part_size=len(body)
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise MalformedRequest(f"the form cannot be read: {error.message}") from error
        files = [file for _, file in form.multi_items() if isinstance(file, UploadFile)]
        try:
            return [
                ImageItem(await file.read(), f"files[{index}]") for index, file in enumerate(files)
            ]
        finally:
            await form.close()


class _InMemoryParser(MultiPartParser):
    """The body is in memory already; spooling it to disk would block the event loop."""

    spool_max_size = 2**40


def _packed(embedded: Embedded, work: Work) -> Response:
    rows, size = embedded.vectors.shape
    headers = answers.headers(embedded.manifest, work.timings)
    return Response(
        np.ascontiguousarray(embedded.vectors, dtype="<f4").tobytes(),
        media_type=PACKED,
        headers=headers | {"x-embedding-shape": f"{rows},{size}"},
    )
