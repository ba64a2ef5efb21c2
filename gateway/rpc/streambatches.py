"""The batches of a stream: items that are embedded together, and answered in one message."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.access.access import Account
from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    QuotaExceeded,
    RequestError,
    Unauthenticated,
)
from gateway.models.registry import Model
from gateway.models.values import Deadline, Item
from gateway.pipeline import requests
from gateway.pipeline.concurrency import comes
from gateway.pipeline.engine import Engine
from gateway.rpc import convert
from gateway.rpc.config import RpcConfig
from gateway.rpc.problems import known_error
from gateway.rpc.streamroom import StreamRoom
from gateway.rpc.window import Pending
from gateway.telemetry.record import Record
from openclip_api.v1 import clip_pb2

QUOTA_WAIT_S = 30.0  # a quota that frees up later fails its items; until then the stream pauses


@dataclass(frozen=True, slots=True)
class StreamCall:
    """One call of EmbedStream, which answers its batches."""

    engine: Engine
    config: RpcConfig  # a batch has as much time as a call, where the client's deadline leaves it
    room: StreamRoom  # holds the permit while there is something to do
    left: Callable[[], float | None]  # seconds until the client's deadline; None where it set none
    draining: asyncio.Event  # then no more is read, or waits for its quota, and the call ends
    record: Record
    account: Account | None  # what items are paid from; None where nobody needs a key

    async def answer(
        self, batch: Sequence[Pending], options: requests.Embed, model: Model
    ) -> clip_pb2.EmbedStreamResponse:
        """Embed the items of a batch; each has a vector or its own error in the message.

        Raises:
            RequestError: The options are wrong.
            Unauthenticated: The key was revoked.
        """
        manifest = model.manifest
        response = clip_pb2.EmbedStreamResponse(
            model=manifest.id,
            fingerprint=manifest.fingerprint,
            dimensions=options.dimensions or manifest.embedding_size,
        )
        items: list[Item] = []
        ids: list[str] = []
        for pending in batch:
            if isinstance(pending.item, RequestError):
                error = convert.error(pending.item)
                response.results.append(clip_pb2.StreamResult(id=pending.id, error=error))
            else:
                items.append(pending.item)
                ids.append(pending.id)
        if items:
            outcomes = await self._outcomes(replace(options, items=items), response, model)
            response.results.extend(
                clip_pb2.StreamResult(id=item_id, **outcome)
                for item_id, outcome in zip(ids, outcomes, strict=True)
            )
        return response

    async def _outcomes(
        self, request: requests.Embed, response: clip_pb2.EmbedStreamResponse, model: Model
    ) -> list[dict[str, Any]]:
        while True:
            left, timeout_s = self.left(), self.config.timeout_s
            limit = timeout_s if left is None else max(0.0, min(timeout_s, left))
            try:
                async with asyncio.timeout(limit):
                    plan = self.engine.embed(request, self.record, model)
                    if self.account:
                        self.account.spend(plan.cost.items)
                    embedded = await plan.run(Deadline.after(limit))
            except (RequestError, Unauthenticated):
                raise  # bad items are skipped, so this is about the options, or the key is revoked
            except QuotaExceeded as spent:
                if not await self._rested(spent.retry_after_s or 0.0):
                    return _failed(request, spent)
            except TimeoutError:
                late = DeadlineExceeded(f"the item was not embedded within {limit:g} seconds")
                return _failed(request, late)
            except Exception as error:  # the stream outlives a batch, whatever befell it
                return _failed(request, known_error(error, self.record.request_id))
            else:
                response.usage.CopyFrom(convert.usage(embedded))
                return convert.outcomes(embedded)

    async def _rested(self, seconds: float) -> bool:
        """Hold the stream back to its quota; False where that takes too long, or it drains."""
        left = self.left()
        if seconds > min(QUOTA_WAIT_S, QUOTA_WAIT_S if left is None else left):
            return False
        return not await comes(self.draining, seconds)


def _failed(request: requests.Embed, error: GatewayError) -> list[dict[str, Any]]:
    return [{"error": convert.error(error)}] * len(request.items)
