"""Lists of files and batches, in OpenAI's shape, and whose they are."""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

from fastapi import Request, Response

from gateway.access.access import Account
from gateway.errors import MalformedRequest, UnknownObject, quoted
from gateway.operations.batches.objects import BatchObject, FileObject
from gateway.operations.batches.space import Space
from gateway.operations.batches.store import Store
from gateway.rest import convert


def space_of(store: Store | None, request: Request) -> Space:
    """The space of the client that sent a request. Raises UnknownObject: batches are off."""
    if store is None:
        raise UnknownObject(
            "files and batches are off until GATEWAY_BATCH_DIR is set", code="not_enabled"
        )
    account: Account | None = request.scope["state"].get("account")
    return store.space(account.key.name if account else None)


def listed(
    found: Iterable[FileObject | BatchObject], query: dict[str, str], default: int, most: int
) -> Response:
    """The page of these objects that a query names by `after` and `limit`.

    Call it in a thread: it may read many objects, up to one more than it shows.

    Raises:
        MalformedRequest: `limit` is no number within its bounds.
        UnknownObject: `after` is the id of none of them.
    """
    asked = query.get("limit", str(default))
    limit = int(asked) if re.fullmatch(r"[0-9]{1,9}", asked) else 0
    if not 1 <= limit <= most:
        raise MalformedRequest(f"limit: must be a number from 1 to {most:,}", param="limit")
    objects, after = iter(found), query.get("after")
    if after is not None and not any(each.id == after for each in objects):
        raise UnknownObject(f"after: {quoted(after)} is not in the list", param="after")
    data = [each.model_dump() for each in islice(objects, limit)]
    return convert.plain(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": next(objects, None) is not None,
        }
    )


def page(most: int, *more: dict[str, Any]) -> dict[str, Any]:
    """The query parameters of a list, as `openapi_extra`."""
    limit = {"type": "integer", "minimum": 1, "maximum": most}
    own = [
        {"name": "limit", "in": "query", "required": False, "schema": limit},
        {"name": "after", "in": "query", "required": False, "schema": {"type": "string"}},
    ]
    return {"parameters": [*own, *more]}
