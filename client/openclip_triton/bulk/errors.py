"""Errors that end a run, apart from those of the client."""


class JobError(Exception):
    """The run cannot start or continue; the message says what to do."""


class Stopped(Exception):
    """The run ended early; its finished partitions are kept.

    Attributes:
        kept: The finished partitions, as a phrase for the user.
        interrupted: Whether Ctrl-C ended it.
    """

    def __init__(self, error: BaseException, done: int, total: int) -> None:
        super().__init__(str(error))
        self.interrupted = isinstance(error, KeyboardInterrupt)
        noun = "partition is" if total == 1 else "partitions are"
        self.kept = f"{done:,} of {total:,} {noun} done and kept"
