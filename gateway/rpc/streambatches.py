"""Batches of a stream: items that are embedded together, and answered in one message."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway import asks
from gateway.engine import Engine
from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    QuotaExceeded,
    RequestError,
    Unauthenticated,
)
from gateway.models import Model
from gateway.record import Record
from gateway.rpc import convert
from gateway.rpc.openclip.v1 import clip_pb2
from gateway.rpc.problems import told
from gateway.rpc.window import Pending
from gateway.values import Deadline, Item

QUOTA_WAIT_S = 30.0  # how long items wait for their key's quota before they are sent back

Left = Callable[[], float | None]


class Batches:
    """Answers the batches of one stream."""

    def __init__(
        self,
        engine: Engine,
        timeout_s: float,
        left: Left,
        draining: asyncio.Event,
        record: Record,
    ) -> None:
        """Takes what belongs to the call.

        Args:
            engine: Embeds the items.
            timeout_s: That a batch has, where the client's deadline leaves as much.
            left: Seconds until the client's deadline, or None where it set none.
            draining: When set, nothing waits for its quota any more.
            record: Of the call.
        """
        self._engine = engine
        self._timeout_s = timeout_s
        self._left = left
        self._draining = draining
        self._record = record

    async def answer(
        self, batch: Sequence[Pending], ask: asks.Embed, model: Model
    ) -> clip_pb2.EmbedStreamResponse:
        """Embeds the items of a batch; each has a vector or its own error in the message.

        Raises:
            RequestError: The options are wrong.
            Unauthenticated: The key was revoked.
        """
        manifest = model.manifest
        response = clip_pb2.EmbedStreamResponse(
            model=ask.model or manifest.id,
            fingerprint=manifest.fingerprint,
            dimensions=ask.dimensions or manifest.embedding_size,
        )
        items: list[Item] = []
        ids: list[str] = []
        for pending in batch:
            if isinstance(pending.item, RequestError):
                response.results.append(_result(pending.id, convert.error(pending.item)))
            else:
                items.append(pending.item)
                ids.append(pending.id)
        if items:
            outcomes = await self._outcomes(replace(ask, items=items), response, model)
            response.results.extend(map(_result, ids, outcomes))
        return response

    async def _outcomes(
        self, ask: asks.Embed, response: clip_pb2.EmbedStreamResponse, model: Model
    ) -> list[clip_pb2.Embedding | clip_pb2.Error]:
        left = self._left()
        limit = self._timeout_s if left is None else min(self._timeout_s, left)
        try:
            async with asyncio.timeout(limit):
                embedded = await self._engine.embed(ask, Deadline.after(limit), self._record, model)
        except (RequestError, Unauthenticated):
            raise  # bad items are skipped, so this is about the options, or the key is revoked
        except QuotaExceeded as spent:
            if await self._rested(spent.retry_after_s or 0.0):
                return await self._outcomes(ask, response, model)
            return self._failed(ask, spent)
        except TimeoutError:
            late = DeadlineExceeded(f"the item was not embedded within {limit:g} seconds")
            return self._failed(ask, late)
        except Exception as error:  # the stream outlives a batch, whatever befell it
            return self._failed(ask, told(error, self._record.request_id))
        response.usage.CopyFrom(convert.usage(embedded))
        return convert.outcomes(embedded)

    async def _rested(self, seconds: float) -> bool:
        """Holds the stream back to its quota; False where that takes too long, or it drains."""
        left = self._left()
        if seconds > min(QUOTA_WAIT_S, QUOTA_WAIT_S if left is None else left):
            return False
        try:
            await asyncio.wait_for(self._draining.wait(), seconds)
        except TimeoutError:
            return True
        return False

    def _failed(
        self, ask: asks.Embed, error: GatewayError
    ) -> list[clip_pb2.Embedding | clip_pb2.Error]:
        return [convert.error(error)] * len(ask.items)


def _result(item_id: str, outcome: clip_pb2.Embedding | clip_pb2.Error) -> clip_pb2.StreamResult:
    if isinstance(outcome, clip_pb2.Error):
        return clip_pb2.StreamResult(id=item_id, error=outcome)
    return clip_pb2.StreamResult(id=item_id, embedding=outcome)
