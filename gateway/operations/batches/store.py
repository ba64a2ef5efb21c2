"""The folder of all files and batches. Everything here blocks: call it in a thread.

    <folder>/lock                     held by the process that runs the batches
    <folder>/<space>/file-<id>.json   one file, and .jsonl its content
    <folder>/<space>/batch_<id>.json  one batch, and .cancel once a client has cancelled it

A space belongs to one API key, or to everybody where there are no keys; a client reaches only its
own. A file appears whole or not at all. After a batch was made, only the process that holds the
lock writes it.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from gateway.operations.batches.space import Space, StoreLimits

EVERYBODY = "all"  # the space where there are no keys
_OF_KEY = "key-"  # before a key's name, which may be `..`


class StoreError(Exception):
    """The folder cannot be used; the message says why."""


class Store:
    """The folder, with a space for each owner."""

    def __init__(self, folder: Path, limits: StoreLimits) -> None:
        """Make the folder. Raises StoreError: it cannot be made or written."""
        self.folder = folder
        self.limits = limits
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / "lock").touch(mode=0o600)
        except OSError as error:
            raise StoreError(f"GATEWAY_BATCH_DIR: {folder}: {error.strerror}") from error

    def space(self, owner: str | None) -> Space:
        """The space of the key of this name; None: of everybody."""
        name = EVERYBODY if owner is None else _OF_KEY + owner
        return Space(self.folder / name, owner, self.limits)

    def spaces(self) -> Iterator[Space]:
        """All spaces."""
        for path in sorted(self.folder.iterdir()):
            if path.name == EVERYBODY:
                yield self.space(None)
            elif path.name.startswith(_OF_KEY):
                yield self.space(path.name.removeprefix(_OF_KEY))

    def lock(self) -> int | None:
        """A descriptor that holds the lock until it is closed; None: another process has it."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def purge(self) -> None:
        """Delete what has expired, and what an interrupted write left."""
        for space in self.spaces():
            space.purge()
