"""multipart/form-data -> files and fields."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from gateway.errors import MalformedRequest, TooLarge, quoted
from gateway.rest.intake import INLINE_BYTES

KIND_CHARACTERS = 2**10  # of a form's content type: parsing it takes the square of its length
FIELD_BYTES = 2**10  # the value of a field is a name or a number; a file may have any size


@dataclass(frozen=True, slots=True)
class Form:
    """What a form holds."""

    files: list[bytes]
    names: list[str]  # of the files
    fields: dict[str, str]


def media_type(headers: Headers) -> str:
    """The media type of a body, in lower case without its parameters; "" where none is named."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_form(headers: Headers) -> bool:
    """Whether a body is a form that `read_form` reads."""
    return media_type(headers) == "multipart/form-data"


async def read_form(
    headers: Headers, body: bytes, max_files: int, known: Collection[str], param: str = "files"
) -> Form:
    """Read a form; a large one in a thread. Every part that has a file name is a file.

    Errors about the files name `param`.

    Raises:
        MalformedRequest: It is no form, ends early, holds no file, or a field that is not known.
        TooLarge: It holds too many files.
    """
    if len(headers["content-type"]) > KIND_CHARACTERS:
        raise MalformedRequest(
            f"the content-type of a form may have {KIND_CHARACTERS:,} characters"
        )
    if len(body) <= INLINE_BYTES:
        return await _read(headers, body, max_files, known, param)
    return await asyncio.to_thread(
        lambda: asyncio.run(_read(headers, body, max_files, known, param))
    )


async def _read(
    headers: Headers, body: bytes, max_files: int, known: Collection[str], param: str
) -> Form:
    _, options = parse_options_header(headers["content-type"])
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        # Python has many: some raise errors of their own, others decode to what is not text.
        raise MalformedRequest("the form's charset must be UTF-8")
    most = max_files + len(known)
    parts = body.count(b"--" + options.get(b"boundary", b"")) - 1  # the last one ends the form
    if parts > most:
        raise _too_many(parts, max_files, param)

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemoryParser(
        headers, stream(), max_files=most, max_fields=most, max_part_size=FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"the form cannot be read: {error.message}") from error
    if not parser.ended:
        raise MalformedRequest("the form ends early: its closing boundary is missing")
    files: list[bytes] = []
    names: list[str] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.append(await value.read())
            names.append(value.filename or "")
        elif name not in known:
            raise MalformedRequest(
                f"the form's part {quoted(name)} is neither a file, which has a filename, nor "
                f"one of the fields {', '.join(known)}"
            )
        elif name in fields:
            raise MalformedRequest(f"{name}: given twice", param=name)
        else:
            fields[name] = value
    if len(files) > max_files:
        raise _too_many(len(files), max_files, param)
    if not files:
        raise MalformedRequest(
            f"{param}: the form holds no file, which is a part with a filename", param=param
        )
    return Form(files, names, fields)


def _too_many(files: int, most: int, param: str) -> TooLarge:
    return TooLarge(f"{param}: {files:,}; the limit (GATEWAY_MAX_ITEMS) is {most:,}", param=param)


class _InMemoryParser(MultiPartParser):
    """The body is in memory already; spooling it to disk would be for nothing."""

    spool_max_size = 2**40
    ended = False  # whether the closing boundary came; Starlette does not ask for it

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Refuse a long part that is no file by its name, which Starlette does not tell."""
        part = self._current_part
        if part.file is None and len(part.data) + end - start > FIELD_BYTES:
            raise MalformedRequest(
                f"the form's part {quoted(part.field_name)} has more than {FIELD_BYTES:,} bytes, "
                "but no filename, which makes a part a file"
            )
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        """The closing boundary came."""
        self.ended = True
