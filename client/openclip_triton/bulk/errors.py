"""Errors that end a run, apart from those of the client."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openclip_triton.bulk.store import Counts


class JobError(Exception):
    """The run cannot start; the message says what to do."""


class StoreError(Exception):
    """The kept progress cannot be used; the message says what to do."""


class Stopped(Exception):
    """The run ended early; its progress is kept.

    Attributes:
        kept: The progress, as a phrase for the user.
        interrupted: Whether Ctrl-C ended it.
    """

    def __init__(self, error: BaseException, counts: "Counts") -> None:
        super().__init__(str(error))
        self.interrupted = isinstance(error, KeyboardInterrupt)
        self.kept = f"{counts.done + counts.failed:,} of {counts.total:,} are done and kept"
