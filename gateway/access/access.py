"""Who sends a request, and whether they may: the same for both protocols."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.access.keys import Key, Keyring
from gateway.access.quotas import Quotas
from gateway.errors import Unauthenticated
from gateway.telemetry.record import Record


@dataclass(frozen=True, slots=True)
class Account:
    """The quota that one request is paid from."""

    key: Key
    keyring: Keyring
    quotas: Quotas
    record: Record

    def spend(self, items: int) -> None:
        """Takes items from the key's quota.

        Raises:
            Unauthenticated: The key was revoked; a stream may outlive it.
            QuotaExceeded: The quota has too few left.
        """
        key = self.keyring.again(self.key)
        self.quotas.spend(key.name, key.quota, items)
        self.record.spent += items


class Access:
    """Lets in who has a key, as far as its quota goes."""

    def __init__(self, keyring: Keyring, quotas: Quotas) -> None:
        self._keyring = keyring
        self._quotas = quotas

    def check(self, authorization: Sequence[str]) -> Key:
        """Whose key it is. Raises Unauthenticated: there is no key, or none that is known."""
        return self._keyring.find(_bearer(authorization))

    def account(self, name: str, record: Record) -> Account:
        """What work in the background is paid from. Raises Unauthenticated: the key is gone."""
        record.key = record.client = name
        return Account(self._keyring.named(name), self._keyring, self._quotas, record)

    @contextmanager
    def entered(self, authorization: Sequence[str], record: Record) -> Iterator[Account]:
        """While a request is worked on: what its items are paid from.

        The record takes the key's name, which is its client's as well, and the items spent.

        Raises:
            Unauthenticated: There is no key, or none that is known.
            QuotaExceeded: As many requests as the key may have are under way.
        """
        key = self.check(authorization)
        record.key = record.client = key.name
        with self._quotas.running(key.name, key.quota):
            yield Account(key, self._keyring, self._quotas, record)


def _bearer(authorization: Sequence[str]) -> str:
    if len(authorization) == 1:
        scheme, _, key = authorization[0].partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            return key.strip()
    raise Unauthenticated("an API key is needed, as `Authorization: Bearer <key>`")
