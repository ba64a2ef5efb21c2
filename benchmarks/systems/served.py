"""One published model, served alone by a real Triton and timed call by call."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from benchmarks.systems import processes, services
from benchmarks.systems.published import DATATYPES, PIXELS, TOKEN_IDS, Manifest, token_ids
from benchmarks.traffic.errors import BenchmarkError

MIN_CALLS = 3  # timed at each batch, however slow
CALL_TIMEOUT = 600.0  # seconds
PROGRAMS = ("tritonserver", "triton_python_backend_stub")

Times = dict[int, list[float]]  # by batch size, seconds of each call


class Served:
    """`python -m server` with one model, until the block ends."""

    def __init__(self, repository: Path, manifest: Manifest) -> None:
        """Nothing is started yet."""
        self._repository = repository
        self._manifest = manifest
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Starts it, and waits until it is ready.

        Raises:
            BenchmarkError: It ended before it was ready.
        """
        with ExitStack() as stack:
            started = services.triton(self._repository, self._manifest["id"])
            self._triton = stack.enter_context(started)
            self._client: Any = triton.InferenceServerClient(self._triton.grpc)
            stack.callback(self._client.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it."""
        self._stack.close()

    def image_times(self, batches: Sequence[int], seconds: float) -> Times:
        """Times the image encoder on a picture of noise, for `seconds` at each batch size."""
        encoder = self._manifest["triton"]["image"]
        size = self._manifest["preprocessing"]["image_size"]
        pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        return self._times(encoder, PIXELS, pixels, batches, seconds)

    def text_times(self, batches: Sequence[int], seconds: float) -> Times:
        """Times texts as long as the context, since PyTorch always computes all of its positions.

        No position is padding, so that a packed encoder has as much to do as any other.
        """
        encoder = self._manifest["triton"]["text"][-1]
        ids = token_ids(self._manifest, encoder["length"], encoder["length"])
        return self._times(encoder, TOKEN_IDS, ids, batches, seconds)

    def memory(self) -> int:
        """Bytes of tritonserver and its model processes (their proportional set sizes)."""
        return sum(
            processes.own_proportional_bytes(pid)
            for pid in processes.tree(self._triton.pid)
            if processes.program(pid) in PROGRAMS
        )

    def _times(
        self,
        encoder: dict[str, Any],
        name: str,
        item: NDArray[Any],
        batches: Sequence[int],
        seconds: float,
    ) -> Times:
        """Batches over what the encoder takes in one execution are left out."""
        times: Times = {}
        for batch in batches:
            if batch > encoder["max_batch"]:
                continue
            items = np.repeat(item[None], batch, axis=0)
            given = triton.InferInput(name, items.shape, DATATYPES[items.dtype])
            given.set_data_from_numpy(items)
            times[batch] = self._time(encoder["name"], given, seconds)
        return times

    def _time(self, model: str, given: Any, seconds: float) -> list[float]:  # noqa: ANN401 (untyped)
        taken: list[float] = []
        for _ in range(2):
            self._infer(model, given)
        end = time.perf_counter() + seconds
        while len(taken) < MIN_CALLS or time.perf_counter() < end:
            start = time.perf_counter()
            self._infer(model, given)
            taken.append(time.perf_counter() - start)
        return taken

    def _infer(self, model: str, given: Any) -> None:  # noqa: ANN401 (as above)
        try:
            version = str(self._manifest["version"])
            self._client.infer(model, [given], model_version=version, client_timeout=CALL_TIMEOUT)
        except triton.InferenceServerException as error:
            raise BenchmarkError(f"{model}: Triton cannot run it: {error}") from error
