"""One published model, served alone by a real Triton in processes of its own."""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

PIXELS, TOKEN_IDS = "pixels", "token_ids"  # input names of the Triton models
DATATYPES = {np.dtype(np.uint8): "UINT8", np.dtype(np.int32): "INT32"}
SUFFIX = ".manifest.json"
MIN_CALLS = 3  # timed at each batch, however slow
STOP_TIMEOUT = 60.0  # seconds
CALL_TIMEOUT = 600.0  # seconds
PROC = Path("/proc")
PROGRAMS = ("tritonserver", "triton_python_backend_stub")

Manifest = dict[str, Any]  # as JSON
Times = dict[int, list[float]]  # by batch size, seconds of each call


class BenchmarkError(Exception):
    """A program that the benchmark starts failed; the message is for the user."""


def manifests(repository: Path) -> dict[str, Manifest]:
    """The manifests of a model repository, by model id."""
    found = [json.loads(path.read_text()) for path in sorted(repository.glob(f"*{SUFFIX}"))]
    return {manifest["id"]: manifest for manifest in found}


def size_bytes(repository: Path, manifest: Manifest) -> int:
    """Size of the towers' files; one that several towers share by hard links counts once."""
    triton_models = manifest["triton"]
    towers = {model["name"] for model in (triton_models["image"], *triton_models["text"])}
    files = [repository / name for name in manifest["files"] if name.split("/")[0] in towers]
    return sum({(s.st_dev, s.st_ino): s.st_size for s in (f.stat() for f in files)}.values())


class Served:
    """`python -m server` with one model, until the block ends."""

    def __init__(self, repository: Path, manifest: Manifest) -> None:
        """Nothing is started yet."""
        self._repository = repository
        self._manifest = manifest
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self._process: subprocess.Popen[str] | None = None
        self._client: Any = None

    def __enter__(self) -> Self:
        """Starts it, and waits until it is ready.

        Raises:
            BenchmarkError: It ended before it was ready.
        """
        options = ["--model-repository", str(self._repository), "--models", self._manifest["id"]]
        ports = [word for kind in ("http", "grpc", "metrics") for word in (f"--{kind}-port", "0")]
        self._process = subprocess.Popen(  # noqa: S603 (the project's own program)
            [sys.executable, "-m", "server", *options, *ports, "--quiet"],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self._client = triton.InferenceServerClient(self._address(self._process))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops it."""
        self._stop()

    def image_times(self, batches: Sequence[int], seconds: float) -> Times:
        """Times the image tower on a picture of noise, for so many seconds at each batch size."""
        tower = self._manifest["triton"]["image"]
        size = self._manifest["preprocessing"]["image_size"]
        pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        return self._times(tower, PIXELS, pixels, batches, seconds)

    def text_times(self, batches: Sequence[int], seconds: float) -> Times:
        """Times the text tower of the full length, as PyTorch can take no other."""
        tower = self._manifest["triton"]["text"][-1]
        ids = np.full(tower["length"], self._manifest["tokenizer"]["pad_id"], np.int32)
        known = self._manifest["golden"]["token_ids"]
        ids[: len(known)] = known
        return self._times(tower, TOKEN_IDS, ids, batches, seconds)

    def memory(self) -> int:
        """Bytes of tritonserver and its model processes (their proportional set sizes)."""
        assert self._process is not None  # noqa: S101 (inside the block)
        return sum(_memory(pid) for pid in _descendants(self._process.pid))

    def _times(
        self,
        tower: dict[str, Any],
        name: str,
        item: NDArray[Any],
        batches: Sequence[int],
        seconds: float,
    ) -> Times:
        """Batches over what the tower takes in one execution are left out."""
        times: Times = {}
        for batch in batches:
            if batch > tower["max_batch"]:
                continue
            items = np.repeat(item[None], batch, axis=0)
            given = triton.InferInput(name, items.shape, DATATYPES[items.dtype])
            given.set_data_from_numpy(items)
            times[batch] = self._time(tower["name"], given, seconds)
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

    def _address(self, process: subprocess.Popen[str]) -> str:
        """Where Triton's gRPC is, as the server says when it is ready."""
        for line in process.stdout or ():
            if found := re.match(r"Triton is ready: gRPC ([^,]+),", line):
                return found[1]
        process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip()[-2000:]
        raise BenchmarkError(f"{self._manifest['id']}: the server did not start: {said}")

    def _stop(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.communicate(timeout=STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
        self._errors.close()


def _descendants(root: int) -> list[int]:
    """Process ids of all that a process started, itself left out."""
    parents = {}
    for entry in PROC.glob("[0-9]*"):
        try:
            after_name = (entry / "stat").read_text(errors="replace").rpartition(")")[2]
            parents[int(entry.name)] = int(after_name.split()[1])
        except OSError:
            continue  # it ended while we looked
    found, new = [], [root]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


def _memory(pid: int) -> int:
    """Bytes of one of Triton's processes; 0 for any other."""
    program = Path((PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")[0]).name
    if program not in PROGRAMS:
        return 0
    lines = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
