"""Chooses the columns of a table that hold images, texts and keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.samples import IMAGES, TEXTS, Input, Kind, Problem, Sample
from openclip_triton.bulk.storage import is_url

# Common names in datasets, in any case, in order of preference.
IMAGE_NAMES = ("image", "jpg", "png", "webp", "image_path", "filepath", "path", "image_url", "url")
TEXT_NAMES = ("caption", "text", "txt")
KEY_NAMES = ("key", "id", "uid", "image_path", "path", "url")


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a table.

    In the user's choice, None means to choose by name; in the columns to read, None means not
    needed or not present.
    """

    image: str | None = None
    text: str | None = None
    key: str | None = None

    def names(self) -> list[str]:
        """List the columns, each once."""
        return list(dict.fromkeys(name for name in (self.image, self.text, self.key) if name))

    def sample(self, row: dict[str, Any], number: int) -> Sample:
        """Convert a row: an image is bytes, a path, a URL or {bytes, path}.

        Args:
            row: The cells by column.
            number: Number of the row in its table, from 1.
        """
        key = row[self.key] if self.key else None
        if key is None:
            key = f"row {number}"
        image, text = None, None
        if self.image:
            cell = row[self.image]
            if isinstance(cell, dict):
                cell = cell.get("bytes") or cell.get("path")
            if not cell:
                return Sample(str(key), problem=Problem("no_image", "the row has no image"))
            if not isinstance(cell, bytes | str):
                kind = type(cell).__name__
                reason = f"an image is bytes, a path or a URL, not {kind}"
                return Sample(str(key), problem=Problem("no_image", reason))
            image = Path(cell) if isinstance(cell, str) and not is_url(cell) else cell
        if self.text:
            text = row[self.text]
            if text is None:
                return Sample(str(key), problem=Problem("no_caption", "the row has no caption"))
        return Sample(str(key), image, None if text is None else str(text))


@dataclass(frozen=True)
class Table(Input):
    """The rows of a file or URL."""

    path: str
    size: int  # number of rows in a partition
    given: Columns  # as the user named them
    kinds: tuple[Kind, ...]  # that the job embeds

    def choose(self, there: Sequence[str]) -> Columns:
        """Choose the job's columns from the given ones.

        Raises:
            JobError: One is missing.
        """
        given = self.given
        return Columns(
            self._one(there, given.image, IMAGE_NAMES, "image") if IMAGES in self.kinds else None,
            self._one(there, given.text, TEXT_NAMES, "text") if TEXTS in self.kinds else None,
            self._one(there, given.key, (), "key") if given.key else _first(there, KEY_NAMES),
        )

    def _one(self, there: Sequence[str], given: str | None, usual: Sequence[str], what: str) -> str:
        if given is not None and given in there:
            return given
        if not given and (found := _first(there, usual)):
            return found
        missing = f"no column {given!r}" if given else f"no column for the {what}s"
        listed = ", ".join(there)
        raise JobError(f"{self.path} has {missing}; it has {listed}; name one by --{what}-column")


def _first(there: Sequence[str], usual: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in there}
    return next((lower[name] for name in usual if name in lower), None)
