"""The services that `python -m benchmarks.peers` measures, with the cost of their processes."""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.systems import processes, services
from benchmarks.systems.published import Manifest
from benchmarks.traffic.connection import Target
from benchmarks.traffic.errors import BenchmarkError

OURS, TORCH, INFINITY = "openclip-triton", "PyTorch and FastAPI", "infinity"
INFINITYS = "ViT-B-32"  # the architecture of `benchmarks.systems.clip_folder`
# Its BetterTransformer needs another transformers; a cache would answer photos seen before.
INFINITY_WORDS = (
    "-m", "infinity_emb.cli", "v2", "--engine", "torch", "--device", "cpu", "--url-prefix", "/v1",
    "--served-model-name", services.MODEL, "--no-bettertransformer", "--no-vector-disk-cache",
    "--host", services.HOST,
)  # fmt: skip
MB = 10**6
VERSIONS = """
from importlib.metadata import version
for name in ("infinity-emb", "torch", "transformers", "open_clip_torch"): print(name, version(name))
"""


@dataclass(frozen=True, slots=True)
class Service:
    """One running service."""

    target: Target
    roots: tuple[int, ...]  # root processes; all their descendants count

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        return sum(processes.tree_cpu_seconds(root) for root in self.roots)

    def memory_mb(self) -> float:
        """Memory of all its processes, with shared memory counted once."""
        return sum(processes.proportional_bytes(root) for root in self.roots) / MB


def start(
    repository: Path, manifests: Sequence[Manifest], python: Path, settings: Mapping[str, str],
    stack: ExitStack,
) -> dict[str, Service]:  # fmt: skip
    """Start ours, one for each precision, and the peers, by name, until the stack is closed.

    Args:
        repository: Where our models are.
        manifests: Of one architecture, in one precision or several. infinity serves only a
        ViT-B-32, and is omitted for other models.
        python: Of an environment with the peers.
        settings: Further `GATEWAY_` variables. The text cache is off.
        stack: Stops all of it when closed.

    Raises:
        BenchmarkError: The models have several architectures, or something did not start.
    """
    architecture, *others = {manifest["open_clip_name"] for manifest in manifests}
    if others:
        raise BenchmarkError(f"choose variants of {architecture}, not of {', '.join(others)} too")
    found = {}
    own = {"GATEWAY_TEXT_CACHE_BYTES": "0", **settings}
    for manifest in manifests:
        model = manifest["id"]
        triton = stack.enter_context(services.triton(repository, model))
        gateway = stack.enter_context(services.gateway(repository, model, triton, own))
        pids = gateway.pid, triton.pid
        found[f"{OURS} {manifest['precision']}"] = Service(gateway.target, pids)
    peers = {TORCH: (["-m", "benchmarks.systems.torch_server", architecture], "readyz")}
    if architecture == INFINITYS:
        folder = stack.enter_context(TemporaryDirectory())
        _run(python, "-m", "benchmarks.systems.clip_folder", folder)
        peers[INFINITY] = ([*INFINITY_WORDS, "--model-id", folder], "health")
    for name, (words, ready) in peers.items():
        served = stack.enter_context(services.on_pytorch(python, words, ready, name))
        found[name] = Service(served.target, (served.pid,))
    return found


def versions(python: Path) -> dict[str, str]:
    """Of the peers' packages.

    Raises:
        BenchmarkError: One is not installed.
    """
    lines = _run(python, "-c", VERSIONS).splitlines()
    return {name: version for name, _, version in (line.partition(" ") for line in lines)}


def _run(python: Path, *words: str) -> str:
    done = subprocess.run(  # noqa: S603 (the project's own program)
        [str(python), *words], cwd=services.ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{python} {words[1]}: {done.stderr.strip()[-2000:]}")
    return done.stdout
