"""The program on fast services of the test's own; what the peers are started with."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import open_clip
import pytest
from transformers import CLIPTokenizer

from benchmarks import peers
from benchmarks.reporting.results import Results, Row
from benchmarks.systems import clip_folder
from benchmarks.systems import peers as systems
from benchmarks.systems.peers import INFINITY, OURS, TORCH, Service
from benchmarks.systems.services import Gateway
from benchmarks.traffic import loops
from benchmarks.traffic.captions import Captions
from benchmarks.traffic.connection import Target
from benchmarks.traffic.errors import BenchmarkError
from benchmarks.traffic.requests import images
from tests.benchmarks.forms import DEMO
from tests.conftest import REPOSITORY, GatewayClient

FP32, INT8 = f"{OURS} fp32", f"{OURS} int8"

pytestmark = pytest.mark.slow


@pytest.fixture
def fakes(api: GatewayClient, monkeypatch: pytest.MonkeyPatch) -> dict[str, Service]:
    """The demo's own gateway in the place of all three."""
    target = Target(api.base_url.netloc.decode(), api.grpc_address, "demo")
    services = {name: Service(target, (api.process,)) for name in (FP32, TORCH, INFINITY)}
    monkeypatch.setattr(systems, "start", lambda *_: services)
    monkeypatch.setattr(loops, "MIN_ANSWERS", 2)  # the fewest that have a rate
    monkeypatch.setattr(systems, "versions", lambda _: {"infinity-emb": "0.0.78"})
    return services


def test_program(fakes: dict[str, Service], tmp_path: Path) -> None:
    words = ["--repository", str(REPOSITORY), "--output", str(tmp_path)]
    assert peers.main([*words, "--seconds", "0.05", "--repeats", "2"]) == 0
    results = Results.read(tmp_path / "peers.benchmark.json")
    assert results.versions["infinity-emb"] == "0.0.78"
    rounds = [row for row in results.rows if peers.ROUND in row.labels]
    assert len(rounds) == 2 * len(fakes) * len(peers.CELLS)
    first = [row.labels["system"] for row in rounds[:: len(fakes)]]
    assert set(first[: len(peers.CELLS)]) == {TORCH}  # each round another one begins
    assert set(first[len(peers.CELLS) :]) == {INFINITY}
    for row in rounds:
        assert row.values["errors"] == 0
        assert min(row.values[name] for name in ("per_second", "p50_ms", "memory_mb")) > 0
    written = (tmp_path / "peers.md").read_text()
    for kind, connections in peers.CELLS:
        assert written.count(f"| {FP32} | {kind} | {connections} |") == 2  # ratio and medians
    assert "| system | kind | concurrency | round |" not in written


def row(system: str, number: int, rate: float) -> Row:
    labels: dict[str, str | int] = {"system": system, "kind": "image", "concurrency": 8}
    return Row(labels | {peers.ROUND: number}, {"per_second": rate})


def test_a_ratio_is_of_the_best_peer_of_its_round() -> None:
    rates = {1: (30.0, 60.0, 10.0, 15.0), 2: (30.0, 60.0, 20.0, 10.0), 3: (30.0, 20.0, 3.0, 10.0)}
    names = (FP32, INT8, TORCH, INFINITY)
    rows = [
        row(name, number, rate)
        for number, several in rates.items()
        for name, rate in zip(names, several, strict=True)
    ]
    rows.append(row(TORCH, 4, 9.0))  # a round that was stopped
    for found, system, values in zip(
        peers.ratios(rows), (FP32, INT8), ((2.0, 1.5, 3.0), (3.0, 2.0, 4.0)), strict=True
    ):
        assert found.labels == {"system": system, "of the best peer": "image", "concurrency": 8}
        assert found.values == dict(zip(("ratio", "least", "most"), values, strict=True))


def test_requests_hold_as_many_images_as_they_say() -> None:
    for count in (1, 8):
        for request in islice(images("demo", count, seed=3), 5):
            body = json.loads(request.body)
            assert (len(set(body["input"])), request.items) == (count, count)
            assert body["modality"] == "image"
    assert list(islice(images("m", 1, 1), 3)) != list(islice(images("m", 1, 2), 3))


def test_beside_another_architecture_is_pytorch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    @contextmanager
    def on_pytorch(python: Path, words: list[str], ready: str, name: str) -> Iterator[Gateway]:
        commands.append(words)
        yield Gateway(os.getpid(), Target("", "", ""))

    monkeypatch.setattr("benchmarks.systems.services.on_pytorch", on_pytorch)
    with ExitStack() as stack:
        started = systems.start(REPOSITORY, [DEMO], Path("python"), {}, stack)
    assert set(started) == {FP32, TORCH}
    assert [words[-1] for words in commands] == [DEMO["open_clip_name"]]


def test_an_environment_without_the_peers_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho infinity-emb is missing >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(BenchmarkError, match="infinity-emb is missing"):
        systems.versions(python)


def test_the_tokenizer_is_openclips(tmp_path: Path) -> None:
    clip_folder.write_tokenizer(tmp_path)
    texts = [*Captions().take(20), "Zebra, naïve café 123!"]
    made = CLIPTokenizer.from_pretrained(tmp_path)(texts)["input_ids"]
    for ids, wanted in zip(made, open_clip.get_tokenizer("ViT-B-32")(texts), strict=True):
        assert ids == wanted[wanted != 0].tolist()
