"""Authenticates requests and charges their quotas, for both protocols."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.access.keys import Key, Keyring
from gateway.access.quotas import Quotas
from gateway.errors import Unauthenticated
from gateway.telemetry.record import Record


@dataclass(frozen=True, slots=True)
class Account:
    """The quota that one request is charged to."""

    key: Key
    keyring: Keyring
    quotas: Quotas
    record: Record

    def spend(self, items: int) -> None:
        """Take items from the key's quota.

        Raises:
            Unauthenticated: The key was revoked; a stream may outlive it.
            QuotaExceeded: The quota has too few items left.
        """
        self.quotas.spend(self.keyring.again(self.key), items)
        self.record.spent += items


class Access:
    """Authenticates requests by their key, within the key's quota."""

    def __init__(self, keyring: Keyring, quotas: Quotas) -> None:
        self._keyring = keyring
        self._quotas = quotas

    def check(self, authorization: Sequence[str]) -> Key:
        """The entry of the key. Raises Unauthenticated: the key is missing or unknown."""
        return self._keyring.find(_bearer(authorization))

    def account(self, name: str, record: Record) -> Account:
        """The account to charge background work to. Raises Unauthenticated: the key is gone."""
        record.key = record.client = name
        return Account(self._keyring.named(name), self._keyring, self._quotas, record)

    @contextmanager
    def entered(self, authorization: Sequence[str], record: Record) -> Iterator[Account]:
        """The account that a request's items are charged to, while the request is processed.

        The record takes the key's name, which is its client's as well, and the items spent.

        Raises:
            Unauthenticated: The key is missing or unknown.
            QuotaExceeded: The key already has its maximum number of requests in flight.
        """
        key = self.check(authorization)
        record.key = record.client = key.name
        with self._quotas.running(key):
            yield Account(key, self._keyring, self._quotas, record)


def _bearer(authorization: Sequence[str]) -> str:
    if len(authorization) == 1:
        scheme, _, key = authorization[0].partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            return key.strip()
    raise Unauthenticated("an API key is needed, as `Authorization: Bearer <key>`")
