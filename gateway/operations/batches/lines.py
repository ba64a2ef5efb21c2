"""The lines of a batch: the check of its input, and its progress with the files of answers.

Everything here blocks: call it in a thread.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from gateway.operations.batches.objects import BatchError, RequestCounts

LINE_BYTES = 4 * 2**20  # of the input
MAX_ERRORS = 100  # reported for one input file
ID_CHARACTERS = 512
REFUSED = 256  # lines in memory at a time


class WrongLineError(Exception):
    """A line is not a valid request; `error` says why."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = BatchError(code=code, message=message, param=param)


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch."""

    custom_id: str
    body: bytes  # JSON


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a line."""

    status: int  # of HTTP
    request_id: str
    body: bytes  # JSON


def check(path: Path, endpoint: str, most: int) -> tuple[int, list[BatchError]]:
    """Return the number of lines of an input file, and the errors of the first wrong ones."""
    seen: set[bytes] = set()
    errors: list[BatchError] = []
    total = 0
    try:
        with path.open("rb") as file:
            for number, raw in _raw_lines(file):
                if number > most:
                    message = f"the limit (GATEWAY_BATCH_MAX_LINES) is {most:,} lines"
                    return total, [BatchError(code="too_many_tasks", message=message)]
                if _blank(raw):
                    continue
                total += 1
                try:
                    mark = _mark(_parsed(raw, endpoint).custom_id)
                    if mark in seen:
                        raise WrongLineError(
                            "duplicate_custom_id", "another line has this custom_id", "custom_id"
                        )
                    seen.add(mark)
                except WrongLineError as wrong:
                    errors.append(wrong.error.model_copy(update={"line": number}))
                    if len(errors) == MAX_ERRORS:
                        break
    except FileNotFoundError:
        return 0, [BatchError(code="file_not_found", message="the input file was deleted")]
    if not total:
        return 0, [BatchError(code="empty_file", message="the input file has no lines")]
    return total, errors


def _raw_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers; cut one that is too long."""
    number = 0
    while raw := file.readline(LINE_BYTES + 2):
        number += 1
        yield number, raw
        while not raw.endswith(b"\n") and len(raw) == LINE_BYTES + 2:
            raw = file.readline(LINE_BYTES + 2)  # the rest of it


def _blank(raw: bytes) -> bool:
    """Whether a line is passed over; one that was cut may have anything in its rest."""
    return len(raw) <= LINE_BYTES + 1 and raw.isspace()


def _parsed(raw: bytes, endpoint: str) -> Line:
    if len(raw) > LINE_BYTES + 1:
        raise WrongLineError("line_too_long", f"a line may have {LINE_BYTES:,} bytes")
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:  # and not UTF-8, and nested too deeply
        raise WrongLineError("invalid_json_line", "the line is not valid JSON, in UTF-8") from None
    if not isinstance(line, dict):
        raise WrongLineError("invalid_json_line", "the line is not a JSON object")
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        if name not in line:
            raise WrongLineError("missing_required_parameter", f"{name} is missing", name)
        if not isinstance(line[name], kind):
            wanted = "an object" if kind is dict else "a string"
            raise WrongLineError("invalid_value", f"{name}: is not {wanted}", name)
    if not 1 <= len(line["custom_id"]) <= ID_CHARACTERS:
        message = f"custom_id: may have 1 to {ID_CHARACTERS} characters"
        raise WrongLineError("invalid_value", message, "custom_id")
    if line["method"] != "POST":
        raise WrongLineError("invalid_method", "method: is not POST", "method")
    if line["url"] != endpoint:
        message = f"url: is not the batch's endpoint, {endpoint}"
        raise WrongLineError("url_mismatch", message, "url")
    try:
        return Line(line["custom_id"], orjson.dumps(line["body"]))
    except orjson.JSONEncodeError:  # it writes less deep JSON than it reads
        raise WrongLineError("invalid_value", "body: is nested too deeply", "body") from None


class Progress:
    """A batch's progress: the place in its input, and the files of answers and of errors.

    A line counts as answered once its answer is whole in one of the two files. The part of an
    answer that a killed process left is cut off, so each `custom_id` is answered exactly once.
    """

    def __init__(
        self, path: Path, output: Path, errors: Path, endpoint: str, counts: RequestCounts
    ) -> None:
        """Keep `counts` current. Raises FileNotFoundError: the input was deleted."""
        self._endpoint = endpoint
        self._counts = counts
        completed, failed = _recovered(output), _recovered(errors)
        counts.completed, counts.failed = len(completed), len(failed)
        self._done = completed | failed
        self._input = path.open("rb")
        self._lines = _raw_lines(self._input)
        self._output, self._errors = _appended(output), _appended(errors)

    def next(self, count: int) -> list[Line]:
        """Return the next lines that are not answered; none: there are no more."""
        found: list[Line] = []
        while len(found) < count and (numbered := next(self._lines, None)):
            if _blank(numbered[1]):
                continue
            line = _parsed(numbered[1], self._endpoint)
            if _mark(line.custom_id) not in self._done:
                found.append(line)
        return found

    def add(self, lines: Iterable[tuple[Line, Answered]]) -> None:
        """Write answers, and wait until they are on the disk."""
        for line, answered in lines:
            response = {
                "status_code": answered.status,
                "request_id": answered.request_id,
                "body": orjson.Fragment(answered.body),
            }
            self._write(line, response, None, good=answered.status == 200)
        self._sync()

    def refuse(self, left: list[Line], code: str, message: str) -> None:
        """Write an error for these lines, and for all after them."""
        error = {"code": code, "message": message}
        while left or (left := self.next(REFUSED)):
            for line in left:
                self._write(line, None, error, good=False)
            left = []
        self._sync()

    def close(self) -> None:
        """Close the files."""
        for file in (self._input, self._output, self._errors):
            file.close()

    def _write(
        self,
        line: Line,
        response: dict[str, Any] | None,
        error: dict[str, str] | None,
        *,
        good: bool,
    ) -> None:
        record = {
            "id": f"batch_req_{secrets.token_hex(16)}",
            "custom_id": line.custom_id,
            "response": response,
            "error": error,
        }
        (self._output if good else self._errors).write(
            orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        )
        self._counts.completed += good
        self._counts.failed += not good

    def _sync(self) -> None:
        for file in (self._output, self._errors):
            file.flush()
            os.fsync(file.fileno())


def _appended(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def _mark(custom_id: str) -> bytes:
    """A short stand-in for an id, where many are kept: an id may take 2 KiB."""
    return hashlib.blake2b(custom_id.encode(), digest_size=16).digest()


def _recovered(path: Path) -> set[bytes]:
    """Return the ids in the whole lines of a file of answers; cut off what follows them."""
    found: set[bytes] = set()
    if not path.exists():
        return found
    whole = 0
    with path.open("r+b") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            try:
                found.add(_mark(orjson.loads(raw)["custom_id"]))
            except orjson.JSONDecodeError:
                break
            whole += len(raw)
        file.truncate(whole)
    return found
