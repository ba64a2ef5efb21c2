"""Who asks, and whether they may: the same for both protocols."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gateway.access.keys import Key, Keyring
from gateway.access.quotas import Quotas
from gateway.errors import Unauthenticated
from gateway.telemetry.record import Record


class Access:
    """Lets in who has a key, as far as its quota goes."""

    def __init__(self, keyring: Keyring, quotas: Quotas) -> None:
        self._keyring = keyring
        self._quotas = quotas

    def check(self, authorization: Sequence[str]) -> Key:
        """Whose key it is.

        Raises:
            Unauthenticated: There is no key, or none that is known.
        """
        return self._keyring.find(_bearer(authorization))

    @contextmanager
    def entered(self, authorization: Sequence[str], record: Record) -> Iterator[None]:
        """While a request is worked on; what it embeds is taken from its key's quota.

        Args:
            authorization: The values of the request's `authorization` headers.
            record: Takes the key's name, which is its client's as well, and how its items are paid
                for.

        Raises:
            Unauthenticated: There is no key, or none that is known.
            QuotaExceeded: As many requests as the key may have are under way.
        """
        key = self.check(authorization)
        record.key = record.client = key.name

        def spend(items: int, images: int) -> None:
            now = self._keyring.again(key)  # a stream may outlive its key
            self._quotas.spend(now.name, now.quota, items)
            record.spent += items

        record.spend = spend
        with self._quotas.running(key.name, key.quota):
            yield


def _bearer(authorization: Sequence[str]) -> str:
    if len(authorization) == 1:
        scheme, _, key = authorization[0].partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            return key.strip()
    raise Unauthenticated("an API key is needed, as `Authorization: Bearer <key>`")
