"""A queueing simulation of gateways before Tritons, image by image.

Images arrive at random times (Poisson) and at random gateways. A gateway decodes on its cores,
first come, first served. Decoded images wait for a call of Triton, of which each gateway has so
many under way at a time for each Triton; what waits meanwhile goes together. A Triton runs one
execution at a time, of as many waiting calls as fit.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from deploy.scaling.plan import Figures

WARM_UP = 0.2  # share of the time that is not counted


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is simulated.

    Attributes:
        rate: Images that arrive in a second.
        calls: Calls that a gateway has under way for each Triton (GATEWAY_TRITON_CALLS).
        decode_spread: Standard deviation of the time to decode, as a share of its mean.
        network_s: Seconds of a call's way to Triton and back.
    """

    rate: float
    gateways: int
    gpus: int
    calls: int = 2
    decode_spread: float = 0.5
    network_s: float = 0.001


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, once warm.

    Attributes:
        rate: Images that were done in a second.
        latency_s: From arrival to answer: p50, p95 and p99.
        gateway_busy: Share of the cores' time, 0 to 1.
        gpu_busy: Share of the GPUs' time, 0 to 1.
        rows: Images in an execution, in the mean.
        waiting: Images in the system at the end, arrived and not done.
    """

    rate: float
    latency_s: tuple[float, float, float]
    gateway_busy: float
    gpu_busy: float
    rows: float
    waiting: int


@dataclass(slots=True)
class _Gateway:
    undecoded: deque[float] = field(default_factory=deque)  # when each image arrived
    decoded: deque[float] = field(default_factory=deque)
    busy: int = 0  # cores
    calls: list[int] = field(default_factory=list)  # under way, for each Triton


@dataclass(slots=True)
class _Call:
    gateway: _Gateway
    triton: int
    arrivals: list[float]


@dataclass(slots=True)
class _Triton:
    waiting: deque[_Call] = field(default_factory=deque)
    busy: bool = False


def simulate(
    deployment: Deployment, figures: Figures, seconds: float = 5.0, seed: int = 1
) -> Outcome:
    """Runs the deployment for so many simulated seconds."""
    return _Simulation(deployment, figures, seconds, seed).run()


class _Simulation:
    def __init__(self, deployment: Deployment, figures: Figures, seconds: float, seed: int) -> None:
        self._deployment, self._figures, self._seconds = deployment, figures, seconds
        self._warm = WARM_UP * seconds
        self._random = random.Random(seed)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._now = 0.0
        self._gateways = [_Gateway(calls=[0] * deployment.gpus) for _ in range(deployment.gateways)]
        self._tritons = [_Triton() for _ in range(deployment.gpus)]
        self._latencies: list[float] = []
        self._executions: list[int] = []  # rows of each
        self._decoding = self._executing = 0.0  # seconds, once warm
        self._inside = 0

    def run(self) -> Outcome:
        self._after(self._random.expovariate(self._deployment.rate), self._arrive)
        while self._events[0][0] <= self._seconds:
            self._now, _, event = heapq.heappop(self._events)
            event()
        span = self._seconds - self._warm
        found = sorted(self._latencies)
        cores = self._deployment.gateways * self._figures.cores
        return Outcome(
            rate=len(found) / span,
            latency_s=(_quantile(found, 0.5), _quantile(found, 0.95), _quantile(found, 0.99)),
            gateway_busy=self._decoding / (span * cores),
            gpu_busy=self._executing / (span * self._deployment.gpus),
            rows=sum(self._executions) / max(1, len(self._executions)),
            waiting=self._inside,
        )

    def _after(self, delay: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + delay, next(self._order), event))

    def _counted(self, length: float) -> float:
        """The part of a stretch of time, from now on, that lies in what is counted."""
        return max(0.0, min(self._now + length, self._seconds) - max(self._now, self._warm))

    def _arrive(self) -> None:
        self._after(self._random.expovariate(self._deployment.rate), self._arrive)
        self._inside += 1
        gateway = self._random.choice(self._gateways)
        gateway.undecoded.append(self._now)
        self._decode(gateway)

    def _decode(self, gateway: _Gateway) -> None:
        while gateway.undecoded and gateway.busy < self._figures.cores:
            arrived = gateway.undecoded.popleft()
            gateway.busy += 1
            length = self._decode_s()
            self._decoding += self._counted(length)
            self._after(length, partial(self._decoded, gateway, arrived))

    def _decode_s(self) -> float:
        mean, spread = 1 / self._figures.core_rate, self._deployment.decode_spread
        if spread == 0:
            return mean
        shape = 1 / spread**2
        return self._random.gammavariate(shape, mean / shape)

    def _decoded(self, gateway: _Gateway, arrived: float) -> None:
        gateway.busy -= 1
        gateway.decoded.append(arrived)
        self._decode(gateway)
        self._call(gateway)

    def _call(self, gateway: _Gateway) -> None:
        tie = self._random.random
        while gateway.decoded:
            triton = min(range(len(gateway.calls)), key=lambda i: (gateway.calls[i], tie()))
            if gateway.calls[triton] >= self._deployment.calls:
                return
            rows = min(self._figures.batch, len(gateway.decoded))
            call = _Call(gateway, triton, [gateway.decoded.popleft() for _ in range(rows)])
            gateway.calls[triton] += 1
            self._after(self._deployment.network_s / 2, partial(self._called, call))

    def _called(self, call: _Call) -> None:
        triton = self._tritons[call.triton]
        triton.waiting.append(call)
        self._execute(triton)

    def _execute(self, triton: _Triton) -> None:
        if triton.busy or not triton.waiting:
            return
        calls = [triton.waiting.popleft()]
        rows = len(calls[0].arrivals)
        while triton.waiting and rows + len(triton.waiting[0].arrivals) <= self._figures.batch:
            calls.append(triton.waiting.popleft())
            rows += len(calls[-1].arrivals)
        triton.busy = True
        length = self._figures.execution_s(rows)
        self._executing += self._counted(length)
        if self._now >= self._warm:
            self._executions.append(rows)
        self._after(length, partial(self._executed, triton, calls))

    def _executed(self, triton: _Triton, calls: Sequence[_Call]) -> None:
        triton.busy = False
        for call in calls:
            self._after(self._deployment.network_s / 2, partial(self._answered, call))
        self._execute(triton)

    def _answered(self, call: _Call) -> None:
        call.gateway.calls[call.triton] -= 1
        self._inside -= len(call.arrivals)
        if self._now >= self._warm:
            self._latencies.extend(self._now - arrived for arrived in call.arrivals)
        self._call(call.gateway)


def _quantile(found: Sequence[float], share: float) -> float:
    return found[min(len(found) - 1, int(share * len(found)))] if found else float("nan")
