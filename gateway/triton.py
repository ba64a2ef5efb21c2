"""The seam to Triton: a protocol, the gRPC client that fills it, and a fake for staged faults."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from gateway.errors import DeadlineExceeded, GatewayError, InferenceFailed, Unavailable
from gateway.values import Vectors

_UNAVAILABLE = {"StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND", "StatusCode.CANCELLED"}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one encoder."""

    model: str  # Triton's name of it
    version: int
    input_name: str
    batch: NDArray[Any]  # uint8 [n, S, S, 3] or int32 [n, L]
    output_name: str
    embedding_size: int  # D


class InferClient(Protocol):
    """What the engine needs of Triton."""

    async def infer(self, call: Call, within: float) -> Vectors:
        """Runs one encoder: returns float32 [n, D].

        Args:
            call: What to run, and on what.
            within: Seconds until the answer must be there.

        Raises:
            DeadlineExceeded: It was not.
            Unavailable: Triton cannot be reached, or does not serve this model and version.
            InferenceFailed: It answered with an error, or with the wrong shape.
        """
        ...

    async def close(self) -> None:
        """Closes the connection."""
        ...


class GrpcInferClient:
    """Calls Triton over gRPC.

    One per process, made inside the running event loop, since the channel belongs to that loop.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = InferenceServerClient(address)

    async def infer(self, call: Call, within: float) -> Vectors:
        """See `InferClient.infer`."""
        tensor = InferInput(call.input_name, call.batch.shape, np_to_triton_dtype(call.batch.dtype))
        tensor.set_data_from_numpy(call.batch)
        try:
            result = await self._client.infer(
                call.model,
                [tensor],
                model_version=str(call.version),
                outputs=[InferRequestedOutput(call.output_name)],
                client_timeout=within,
            )
        except InferenceServerException as error:
            raise self._translated(error, call) from error
        return _checked(result.as_numpy(call.output_name), call)

    async def close(self) -> None:
        """See `InferClient.close`."""
        await self._client.close()

    def _translated(self, error: InferenceServerException, call: Call) -> GatewayError:
        status = error.status()
        if status == "StatusCode.DEADLINE_EXCEEDED":
            return DeadlineExceeded("the request ran out of time while its model ran")
        if status in _UNAVAILABLE:
            return Unavailable("the inference server cannot be reached or does not serve the model")
        return InferenceFailed(
            f"Triton at {self._address}, {call.model} version {call.version}: "
            f"{status}: {error.message()}"
        )


class FakeInferClient:
    """Fills the seam in tests that stage a fault: answers with whatever `behave` returns."""

    def __init__(self, behave: Callable[[Call], Vectors], delay: float = 0.0) -> None:
        self._behave = behave
        self._delay = delay
        self.calls: list[Call] = []

    async def infer(self, call: Call, within: float) -> Vectors:
        """See `InferClient.infer`; waits `delay` seconds, or until the time is over, first."""
        self.calls.append(call)
        await asyncio.sleep(min(self._delay, within))
        if self._delay >= within:
            raise DeadlineExceeded("the request ran out of time while its model ran")
        return _checked(self._behave(call), call)

    async def close(self) -> None:
        """Nothing to close."""


def _checked(vectors: NDArray[Any] | None, call: Call) -> Vectors:
    """A wrong model under the right name must not pass for an answer."""
    wanted = (len(call.batch), call.embedding_size)
    if vectors is None or vectors.shape != wanted or vectors.dtype != np.float32:
        found = "nothing" if vectors is None else f"{vectors.dtype} {list(vectors.shape)}"
        raise InferenceFailed(f"{call.model}: answered {found}, not float32 {list(wanted)}")
    if not np.isfinite(vectors).all():
        raise InferenceFailed(f"{call.model}: answered vectors that are not finite")
    return vectors
