"""What stands for Triton where a fault is staged at the gateway's seam to it."""

import asyncio
from collections.abc import Callable

import numpy as np

from gateway.errors import GatewayError
from gateway.inference.client import Call, FakeInferClient
from gateway.models.values import Vectors

Behave = Callable[[Call], Vectors]


def unit(call: Call) -> Vectors:
    """A right-shaped answer: every row the first unit vector."""
    rows = np.zeros((len(call.batch), call.encoder.embedding_size), dtype=np.float32)
    rows[:, 0] = 1
    return rows


def failing(error: Exception) -> Behave:
    """Raises it, whatever is asked."""

    def behave(call: Call) -> Vectors:
        raise error

    return behave


class Gated(FakeInferClient):
    """Answers nothing before its gate is set."""

    def __init__(self, behave: Behave = unit) -> None:
        super().__init__(behave)
        self.gate = asyncio.Event()

    async def infer(self, call: Call, within: float) -> Vectors:
        self.calls.append(call)
        await self.gate.wait()
        return self._behave(call)


class Unchecked(FakeInferClient):
    """Answers rows that say which they are, and are no vectors of a model."""

    async def infer(self, call: Call, within: float) -> Vectors:
        self.calls.append(call)
        await asyncio.sleep(self._delay)
        return self._behave(call)


def error_classes(kind: type[GatewayError] = GatewayError) -> set[type[GatewayError]]:
    """The errors that are raised: those that no other derives from."""
    below = kind.__subclasses__()
    return {kind} if not below else set().union(*(error_classes(each) for each in below))
