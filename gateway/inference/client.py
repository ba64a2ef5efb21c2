"""Encoders, calls, and the protocol of the client that runs them; with a fake for tests."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.errors import DeadlineExceeded, InferenceFailed, Unavailable
from gateway.models.values import Vectors

WRONG = "wrong_model"  # the code of errors that mean that a wrong model answered
SHORTEST, LONGEST = 0.99**2, 1.01**2  # a unit vector's squared length, in any precision
LATE = "the request ran out of time while its model ran"


@dataclass(frozen=True, slots=True)
class Golden:
    """An encoder's golden vector and its input."""

    batch: NDArray[Any]  # [1, ...], as the encoder takes it
    vector: NDArray[np.float64]  # [D], unit length
    min_cosine: float


@dataclass(frozen=True, slots=True)
class Encoder:
    """One encoder: a model's image or text half, as Triton serves it at one text length."""

    model: str  # Triton's name of it
    version: int
    input_name: str
    output_name: str
    embedding_size: int  # D
    max_batch: int
    queue: str  # encoders that share it take turns: those of one text encoder at several lengths
    golden: Callable[[], Golden] = field(compare=False, repr=False)
    pad_id: int | None = None  # of rows of any length, padded to the longest; None: one shape

    def __hash__(self) -> int:
        return hash((self.model, self.version))  # equal for equal ones, and soon made


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one encoder."""

    encoder: Encoder
    batch: NDArray[Any]  # uint8 [n, S, S, 3] or int32 [n, L]
    traceparent: str = ""  # W3C's, where the call is traced
    bulk: bool = False  # whether others' calls may pass it, for a while


class InferClient(Protocol):
    """The client of one or several Tritons."""

    def servers(self) -> int:
        """The number of Tritons."""

    def check(self) -> None:
        """Fails at once while every call would be in vain.

        Raises:
            Unavailable: No Triton answers.
        """

    async def infer(self, call: Call, within: float) -> Vectors:
        """Run one encoder: return float32 [n, D].

        Args:
            call: What to run, and on what.
            within: Seconds until the answer must be there.

        Raises:
            DeadlineExceeded: No answer came in time.
            Overloaded: Triton's queue is full.
            Unavailable: Triton cannot be reached, does not serve this model and version, or
                serves another model under its name.
            InferenceFailed: Triton answered with an error; or, with the code `WRONG`, with an
                output that cannot be this encoder's.
        """

    async def load(self, encoder: Encoder, within: float) -> None:
        """Load an encoder into every Triton that answers; return when all serve this version.

        Raises:
            Unavailable: A Triton does not serve it; the message says why.
            TimeoutError: It took longer than `within`, in seconds.
        """

    async def release(
        self, served: Collection[Encoder], gone: Collection[str], looks: float
    ) -> list[str]:
        """Have every Triton that answers unload what no gateway uses; call it at intervals.

        That is a version of a served encoder besides the served one, or any of an encoder that is
        gone, which has run no more rows during this number of calls. A served version that is not
        loaded, beside others that are, is loaded.

        Return what could not be done and why, one line each.
        """

    async def rest(self, served: Collection[Encoder], looks: int) -> list[str]:
        """Have every Triton unload encoders that run no rows; call it at intervals.

        That is an encoder that ran none on any Triton during this number of calls, for whatever
        gateway. A call of `infer` has it loaded again.

        Return what could not be done and why, one line each.
        """

    def asleep(self, encoder: Encoder) -> bool:
        """Whether an encoder is not loaded because nobody used it, when it was last looked at."""

    async def verify(self, encoder: Encoder, within: float) -> bool:
        """Check on every Triton that answers that an encoder gives its golden vector.

        Does not run an encoder that was checked within the last minute and has been neither used
        nor loaded anew since; nor one that is asleep.

        Return whether earlier vectors are in doubt. They are if a Triton that gave the golden
        vector before no longer gives it, or if a Triton answered a call with an output that cannot
        be this encoder's, which counts once for each connection.

        Raises:
            Unavailable: No Triton gives the golden vector.
            Others: As `infer`.
        """

    async def close(self) -> None:
        """Close the connections."""


class FakeInferClient:
    """For tests that stage a fault: answers with what `behave` returns."""

    def __init__(self, behave: Callable[[Call], Vectors], delay: float = 0.0) -> None:
        self._behave = behave
        self._delay = delay
        self.calls: list[Call] = []

    def servers(self) -> int:
        """Always 1."""
        return 1

    def check(self) -> None:
        """Never fails."""

    async def infer(self, call: Call, within: float) -> Vectors:
        """See `InferClient.infer`; first waits `delay` seconds, or until the time is over."""
        self.calls.append(call)
        await asyncio.sleep(min(self._delay, within))
        if self._delay >= within:
            raise DeadlineExceeded(LATE)
        return checked(self._behave(call), call)

    async def load(self, encoder: Encoder, within: float) -> None:
        """Every encoder is loaded."""

    async def release(
        self, served: Collection[Encoder], gone: Collection[str], looks: float
    ) -> list[str]:
        """Nothing is unused."""
        return []

    async def rest(self, served: Collection[Encoder], looks: int) -> list[str]:
        """Nothing is idle."""
        return []

    def asleep(self, encoder: Encoder) -> bool:
        """Never."""
        return False

    async def verify(self, encoder: Encoder, within: float) -> bool:
        """See `InferClient.verify`."""
        golden = encoder.golden()
        [vector] = await self.infer(Call(encoder, golden.batch), within)
        cosine = cosine_to(golden, vector)
        if cosine < golden.min_cosine:
            raise Unavailable(differs(encoder.model, cosine), code=WRONG)
        return False

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


def cosine_to(golden: Golden, vector: NDArray[np.float32]) -> float:
    """The cosine of a vector [D] with the golden vector."""
    return float(vector.astype(np.float64) @ golden.vector)


def differs(name: str, cosine: float) -> str:
    """The error message of an encoder with a wrong golden vector."""
    return f"{name}: its golden vector has cosine {cosine:.4f} to the published one"


def checked(vectors: NDArray[Any] | None, call: Call) -> Vectors:
    """Return the vectors of a call, after a check that its encoder can have made them.

    Raises:
        InferenceFailed: With the code `WRONG`: they have another shape or type, or not all of
            them are unit vectors.
    """
    name, wanted = call.encoder.model, (len(call.batch), call.encoder.embedding_size)
    if vectors is None or vectors.shape != wanted or vectors.dtype != np.float32:
        found = "nothing" if vectors is None else f"{vectors.dtype} {list(vectors.shape)}"
        raise InferenceFailed(f"{name}: answered {found}, not float32 {list(wanted)}", code=WRONG)
    squares = np.vecdot(vectors, vectors)
    if not ((squares >= SHORTEST) & (squares <= LONGEST)).all():  # NaN fails both
        raise InferenceFailed(f"{name}: answered vectors that are not of unit length", code=WRONG)
    return vectors
