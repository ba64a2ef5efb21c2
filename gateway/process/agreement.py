"""What the processes behind one port serve, so that one that starts serves nothing else.

A repository may hold a version that those that run have refused, or are only about to take. Who
starts reads it afresh, and would answer with another model than the others, through the same port.
"""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from gateway.models.manifest import Manifest

logger = logging.getLogger(__name__)


class Agreement:
    """A file in the folder that the processes share. Its calls read and write it."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder."""
        self._path = folder / "served.json"

    def differs(self, manifests: Iterable[Manifest]) -> list[str]:
        """The ids of models that only others serve, or only we, or in another version."""
        try:
            others = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return []
        ours = _fingerprints(manifests)
        return sorted(name for name in ours | others if ours.get(name) != others.get(name))

    def write(self, manifests: Iterable[Manifest]) -> None:
        """This is served from now on. Where it cannot be written, that is no reason to stop."""
        own = self._path.with_suffix(f".{os.getpid()}")
        try:
            own.parent.mkdir(mode=0o700, exist_ok=True)
            own.write_text(json.dumps(_fingerprints(manifests)))
            own.replace(self._path)
        except OSError as error:
            logger.warning("%s: cannot be written: %s", self._path, error.strerror)

    def end(self) -> None:
        """Nobody serves any more; who starts next is free."""
        self._path.unlink(missing_ok=True)


def _fingerprints(manifests: Iterable[Manifest]) -> dict[str, str]:
    return {each.id: each.fingerprint for each in manifests}
