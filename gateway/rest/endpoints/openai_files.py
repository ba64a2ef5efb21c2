"""`/v1/files`, in OpenAI's shape: the inputs and results of batches."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Send

from gateway.errors import MalformedRequest, TooLarge
from gateway.operations.batches.objects import FileObject
from gateway.operations.batches.store import Store
from gateway.pipeline.concurrency import Threads
from gateway.rest import convert, fields
from gateway.rest.endpoints.openai_lists import listed, page, space_of
from gateway.rest.forms import is_form, read_form
from gateway.rest.intake import FORM, Intake
from gateway.rest.openapi import BYTES, answers

MOST_FILES = 10_000  # in one list, as OpenAI has it
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_NAME_CHARACTERS = 255
_BYTES = "application/octet-stream"
CHUNK_BYTES = 2**18


class FileForm(BaseModel):
    """The fields of an upload."""

    model_config = ConfigDict(extra="forbid")

    purpose: Literal["batch"]
    anchor: Literal["created_at"] = Field("created_at", alias="expires_after[anchor]")
    keep_s: int | None = Field(
        None, alias="expires_after[seconds]", ge=fields.SHORTEST_S, le=fields.LONGEST_S
    )


class FilesResponse(BaseModel):
    """Files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    """What was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"enum": ["batch"]},
                        _ANCHOR: {"enum": ["created_at"]},
                        _SECONDS: {
                            "type": "integer",
                            "minimum": fields.SHORTEST_S,
                            "maximum": fields.LONGEST_S,
                        },
                    },
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                }
            }
        },
    }
}  # fmt: skip


_ORDER = {"name": "order", "in": "query", "required": False, "schema": {"enum": ["asc", "desc"]}}
_PURPOSE = {"name": "purpose", "in": "query", "required": False, "schema": {"type": "string"}}


class Download(StreamingResponse):
    """A file's content, opened anew for each piece, so that slow readers hold no descriptors.

    If the file is deleted meanwhile, the server closes the connection.
    """

    def __init__(self, path: Path, size: int, threads: Threads) -> None:
        length = {"content-length": str(size)}
        super().__init__(self._pieces(path, size, threads), headers=length, media_type=_BYTES)

    async def stream_response(self, send: Send) -> None:
        """See `StreamingResponse`."""
        with suppress(FileNotFoundError):
            await super().stream_response(send)

    async def _pieces(self, path: Path, size: int, threads: Threads) -> AsyncIterator[bytes]:
        for start in range(0, size, CHUNK_BYTES):
            yield await threads.run(_piece, path, start)


def _piece(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(CHUNK_BYTES)


def router(store: Store | None, intake: Intake, threads: Threads) -> APIRouter:
    """The routes, which read and write in `threads`; all answer 404 without a store."""
    made = APIRouter(tags=["batches"])

    @made.post(
        "/v1/files", summary="Upload the input of a batch", openapi_extra=_UPLOAD,
        responses=answers(FileObject, 400, 401, 404, 413, 429, 503),
    )  # fmt: skip
    async def upload(request: Request) -> Response:
        """A form with `purpose=batch` and the file, JSONL: a line for each request."""
        space = space_of(store, request)
        async with intake.work(request, multiple=FORM) as work:
            if not is_form(request.headers):
                raise MalformedRequest("send the file as multipart/form-data")
            known = ("purpose", _ANCHOR, _SECONDS)
            try:
                form = await read_form(request.headers, work.body, 1, known, "file")
            except TooLarge:
                raise MalformedRequest("file: give one file", param="file") from None
            options = work.check(FileForm, form.fields)
            name = form.names[0][:_NAME_CHARACTERS]
            made = await threads.run(space.add_file, form.files[0], name, options.keep_s)
        return convert.plain(made.model_dump())

    @made.get(
        "/v1/files", summary="List the files", openapi_extra=page(MOST_FILES, _ORDER, _PURPOSE),
        responses=answers(FilesResponse, 400, 401, 404),
    )  # fmt: skip
    async def several(request: Request) -> Response:
        """The newest first, or with `order=asc` the oldest."""
        space = space_of(store, request)
        query = dict(request.query_params)
        order = query.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise MalformedRequest("order: must be asc or desc", param="order")
        found = await threads.run(space.files)
        purpose = query.get("purpose")
        wanted = [each for each in found if purpose in (None, each.purpose)]
        wanted = wanted if order == "asc" else wanted[::-1]
        return await threads.run(listed, wanted, query, MOST_FILES, MOST_FILES)

    @made.get("/v1/files/{file_id}", summary="One file", responses=answers(FileObject, 401, 404))
    async def one(request: Request, file_id: str) -> Response:
        """One file's size, purpose and times."""
        space = space_of(store, request)
        return convert.plain((await threads.run(space.file, file_id)).model_dump())

    @made.get(
        "/v1/files/{file_id}/content", summary="A file's content",
        responses=answers(None, 401, 404, content=BYTES),
    )  # fmt: skip
    async def content(request: Request, file_id: str) -> Response:
        """The file's content, JSONL."""
        space = space_of(store, request)
        found = await threads.run(space.file, file_id)
        return Download(space.content(file_id), found.bytes, threads)

    @made.delete(
        "/v1/files/{file_id}", summary="Delete a file", responses=answers(DeletedFile, 401, 404)
    )
    async def delete(request: Request, file_id: str) -> Response:
        """A batch that has not ended fails without its input."""
        space = space_of(store, request)
        await threads.run(space.delete_file, file_id)
        return convert.plain(DeletedFile(id=file_id).model_dump())

    return made
