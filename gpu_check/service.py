"""Measures Triton and the gateway under closed and open loops, and finds the bottleneck."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.request import urlopen

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from benchmarks.reporting.results import Label, Row
from benchmarks.systems import processes, repositories, services
from benchmarks.systems.published import Manifest, encoders, size_bytes
from benchmarks.traffic import loops
from benchmarks.traffic.arrivals import offer
from benchmarks.traffic.requests import requests
from gpu_check.engines import MB
from gpu_check.lines import FAIL, PASS, line
from gpu_check.sessions import Runtime

KINDS = {"rest-image": 0, "rest-text": -1}  # with the index of the encoder that answers
OFFERED = (0.5, 0.7, 0.9)  # parts of the best closed loop
LEAST = 20  # requests of an open loop, on average
BUSY = 0.9  # of the time, or of a core: from there on it is the bottleneck
COUNTERS = (
    "nv_inference_request_success", "nv_inference_exec_count",
    "nv_inference_compute_infer_duration_us",
)  # fmt: skip


def lines(
    repository: Path, manifest: Manifest, runtime: Runtime, loads: Sequence[int], seconds: float,
    settings: Mapping[str, str],
) -> Iterator[Row]:  # fmt: skip
    """Serve a model and measure it.

    Raises:
        BenchmarkError: The service does not start.
    """
    model, before = manifest["id"], runtime.used_bytes()
    cuda = runtime.device == "cuda" and manifest["runtime"] != "openvino"  # which needs a CPU
    with (
        on_gpu(repository, manifest) if cuda else nullcontext(repository) as served,
        services.triton(served, model) as triton,
        services.gateway(served, model, triton, settings) as gateway,
    ):
        labels: dict[str, Label] = {"model": model, "request": "start"}
        memory = {"triton_mb": processes.proportional_bytes(triton.pid) / MB}
        why = ""
        if cuda:
            grown = runtime.used_bytes() - before
            memory["gpu_mb"] = grown / MB
            if grown < size_bytes(repository, manifest) / 2:
                why = "Triton holds no weights on the GPU: it serves on the CPU"
        yield line("service", labels, FAIL if why else PASS, why, **memory)
        seeds = itertools.count()
        for kind, place in KINDS.items():
            name, best = encoders(manifest)[place]["name"], 0.0
            for load in loads:
                watched = _Watch(triton, gateway, name)
                stream = requests(kind, model, next(seeds))
                done = loops.measure(gateway.target, stream, load, seconds)
                best = max(best, done.per_second)
                labels = {"model": model, "request": kind, "loop": f"closed, {load}"}
                shares, limit = watched.shares()
                labels["limit"] = limit
                yield _measured(labels, done.values() | shares, done.errors)
            for part in OFFERED:
                length = max(seconds, LEAST / (best * part)) if best else seconds
                outcome = offer(gateway.target, kind, best * part, length, seed=next(seeds))
                labels = {"model": model, "request": kind, "loop": f"open, {part:.0%} of the best"}
                yield _measured(labels, outcome.values(best * part, length), outcome.others())


@contextmanager
def on_gpu(repository: Path, manifest: Manifest) -> Iterator[Path]:
    """A copy of a model that Triton may run only on a GPU, until the block ends."""

    def change(config: ModelConfig) -> None:
        for group in config.instance_group:
            group.kind = ModelInstanceGroup.KIND_GPU

    with repositories.copy(repository, manifest) as folder:
        repositories.edit(folder, manifest, change)
        yield folder


def _measured(labels: dict[str, Label], values: dict[str, float], wrong: Mapping[str, int]) -> Row:
    """A line that fails if any answer was wrong; some requests of an open loop may be refused."""
    why = "; ".join(wrong) if values["requests"] else "nothing was answered"
    return line("service", labels, FAIL if why else PASS, why, **values)


class _Watch:
    """The use of the encoder, the gateway and this client from now on."""

    def __init__(self, triton: services.Triton, gateway: services.Gateway, encoder: str) -> None:
        self._metrics, self._pid, self._encoder = triton.metrics, gateway.pid, encoder
        self._start = self._now()

    def shares(self) -> tuple[dict[str, float], str]:
        """The encoder's share of the time, the cores that the others use, the bottleneck."""
        passed = [now - then for now, then in zip(self._now(), self._start, strict=True)]
        elapsed, client, gateway, requests, executions, computed = passed
        # Triton counts the time of an execution once for each request in it.
        busy = computed / 1e6 * executions / requests if requests else 0.0
        shares = {
            "encoder": busy / elapsed,
            "gateway": gateway / elapsed,
            "client": client / elapsed,
        }
        limits = [name for name, share in shares.items() if share >= BUSY]
        return {f"{name}_busy": v for name, v in shares.items()}, ", ".join(limits) or "none alone"

    def _now(self) -> tuple[float, ...]:
        with urlopen(self._metrics, timeout=10) as answer:  # noqa: S310 (a Triton of ours)
            lines = answer.read().decode().splitlines()
        own = [each for each in lines if f'model="{self._encoder}"' in each]
        counters = [
            sum(float(each.split()[-1]) for each in own if each.startswith(f"{name}{{"))
            for name in COUNTERS
        ]
        cpu = processes.tree_cpu_seconds(self._pid)
        return (time.perf_counter(), time.process_time(), cpu, *counters)
