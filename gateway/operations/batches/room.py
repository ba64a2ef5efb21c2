"""The room for files and batches: how much is kept, and for how long."""

from dataclasses import dataclass
from pathlib import Path

from gateway.errors import TooLarge


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much is kept, and for how long."""

    bytes: int  # of all files together
    objects: int  # files, and likewise batches, of one space
    lines: int  # of one batch
    keep_s: int


class Room:
    """The room in the folder of all spaces."""

    def __init__(self, folder: Path, limits: StoreLimits) -> None:
        self.limits = limits
        self._folder = folder

    def check(self, size: int) -> None:
        """Raises TooLarge: `size` more bytes are over the limit."""
        used = sum(_size(path) for path in self._folder.glob("*/file-*.jsonl"))
        if used + size > self.limits.bytes:
            raise TooLarge(
                f"the files are over the limit (GATEWAY_BATCH_MAX_BYTES) of {self.limits.bytes:,} "
                "bytes: delete some",
                code="storage_full",
            )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
