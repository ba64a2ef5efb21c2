"""API keys: a file of their digests, reloaded when it changes.

`python -m gateway.access.keys new NAME` prints a fresh key, and the entry for the file.
"""

import argparse
import asyncio
import hashlib
import logging
import re
import secrets
import sys
from collections.abc import Sequence
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, NoReturn

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from gateway.errors import Unauthenticated
from gateway.models.files import CHECK_S, read_yaml, version

_PREFIX = "oct_"  # lets scanners for leaked secrets recognise a key
_NAME = r"^[A-Za-z0-9._-]{1,64}$"

logger = logging.getLogger(__name__)


class KeysError(Exception):
    """The key file is invalid; the message says where, and quotes no value."""


class Key(BaseModel):
    """One entry of the file; without a limit, a quota has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=_NAME)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # of the key
    items_per_minute: PositiveInt | None = None
    concurrency: PositiveInt | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keys: list[Key] | None


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read the keys of a YAML or JSON file, `{"keys": [{"name", "sha256", ...}, ...]}`.

    Raises:
        KeysError: The file cannot be read, or does not have this shape.
    """
    keys = tuple(read_yaml(path, _File, KeysError).keys or ())
    for what, field in (("name", "name"), ("digest", "sha256")):
        if len({getattr(key, field) for key in keys}) < len(keys):
            raise KeysError(f"{path}: two entries have the same {what}")
    return keys


class Keyring:
    """The keys that are valid now."""

    def __init__(self, path: Path) -> None:
        """Read them. Raises KeysError: see `read_keys`."""
        self._path = path
        self._version = version((path,))
        self._keys = read_keys(path)

    def find(self, presented: str) -> Key:
        """The entry of a key.

        Compare every entry in full, so that the time reveals nothing about the file.

        Raises:
            Unauthenticated: No entry has this key.
        """
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
        found = [key for key in self._keys if compare_digest(key.sha256, digest)]
        if not found:
            raise Unauthenticated("the API key is not known")
        return found[0]

    def named(self, name: str) -> Key:
        """The entry with this name. Raises Unauthenticated: it was removed."""
        for key in self._keys:
            if key.name == name:
                return key
        raise Unauthenticated(f"the API key {name!r} was removed")

    def again(self, key: Key) -> Key:
        """The current entry of a key that was accepted before.

        Raises:
            Unauthenticated: It was removed from the file.
        """
        for each in self._keys:
            if each.sha256 == key.sha256:
                return each
        raise Unauthenticated("the API key was removed")

    async def follow(self) -> NoReturn:
        """Reload the file whenever it changes; if it is broken, keep the current keys."""
        while True:
            await asyncio.sleep(CHECK_S)
            changed = await asyncio.to_thread(self._read_if_changed)
            if changed is not None:
                self._keys = changed
                logger.info("%s: %d keys", self._path, len(changed))

    def _read_if_changed(self) -> tuple[Key, ...] | None:
        now = version((self._path,))
        if now == self._version:
            return None
        self._version = now
        try:
            return read_keys(self._path)
        except KeysError as error:
            logger.error("%s; the previous keys stay valid", error)
            return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a fresh key, and the entry for the file."""
    parser = argparse.ArgumentParser(prog="python -m gateway.access.keys", description=main.__doc__)
    parser.add_argument("command", choices=["new"])
    parser.add_argument("name", help="name of the key's user or purpose; logs and metrics show it")
    name = parser.parse_args(arguments).name
    if not re.fullmatch(_NAME, name):
        parser.error("name: 1 to 64 letters, digits, dots, dashes and underscores")
    key = _PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    sys.stdout.write(
        f"key; give it to its user and store it nowhere else:\n  {key}\n\n"
        f"entry for the file of keys (GATEWAY_API_KEYS_FILE), below `keys:`:\n"
        f"  - name: {name}\n    sha256: {digest}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
