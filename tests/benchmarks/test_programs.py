import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ceilings, compare, openloop, stage_budget
from benchmarks.reporting import targets
from benchmarks.reporting.results import Results, Row
from benchmarks.systems import processes
from benchmarks.systems.published import batch_of, packed
from server.launcher import TritonServer
from tests.benchmarks.forms import DEMO, FIXED, FORMS, PACKED, write_form
from tests.conftest import REPOSITORY, ROOT, GatewayClient, GatewayFactory
from tests.gateway.proc import below
from tests.gateway.waiting import wait_until

pytestmark = pytest.mark.slow

CLOSED = 10  # loads of our own service


def ran(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{program}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_what_cannot_be_measured_is_said_in_one_line(tmp_path: Path) -> None:
    done = ran("stage_budget", "--repository", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.endswith("choose a model with --model; there are: none\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["text", "label-set"])
def test_a_kind_that_cannot_be_sent_is_refused_at_once(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        stage_budget.main(["--repository", str(REPOSITORY), "--kinds", kind])
    assert f"argument --kinds: invalid choice: '{kind}'" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_all_that_was_started(tmp_path: Path, number: signal.Signals) -> None:
    words = ["--fractions", "0.1", "--seconds", "60", "--capacity", "50"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.openloop", *words, "--output", str(tmp_path)], cwd=ROOT,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        started = wait_for_gateway(process.pid)
        assert len(started) > 3  # itself, Triton's launcher, Triton, the gateway
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    finally:
        for pid in processes.tree(process.pid):  # none of them, unless the test has failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(60)
    assert process.returncode == 128 + number
    assert said == ("stopped\n" if number == signal.SIGINT else "")
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def wait_for_gateway(root: int) -> list[int]:
    """Processes of a benchmark, as soon as the gateway is one of them."""
    wait_until(lambda: below(root, "-m", "gateway"), "the gateway was not started")
    return processes.tree(root)


@pytest.mark.parametrize("form", FORMS)
def test_ceilings(tmp_path: Path, form: str) -> None:
    manifest = write_form(tmp_path / "repository", form)
    words = ["--repository", str(tmp_path / "repository"), "--output", str(tmp_path)]
    assert ceilings.main([*words, "--seconds", "0.1"]) == 0
    rows = Results.read(tmp_path / "ceilings.benchmark.json").rows
    rates = {str(r.labels["kind"]): r.values["per_second"] for r in rows if len(r.labels) == 2}
    kinds = {"encode-image", "decode", "image", "text"}
    assert set(rates) == kinds
    both = 1 / (1 / rates["encode-image"] + 1 / rates["decode"])
    assert rates["image"] == pytest.approx(both)
    texts = [row for row in rows if row.labels["kind"] == "encode-text"]
    if form == PACKED:
        assert [row.labels["batch"] for row in texts] == list(ceilings.BATCHES)
        assert rates["text"] == max(row.values["per_second"] for row in texts)
    lengths = {row.labels["length"] for row in rows if "length" in row.labels}
    fixed = {tower["length"] for tower in manifest["triton"]["text"]}
    assert lengths == (fixed if form == FIXED else set())


def test_a_batch_is_padded_to_its_longest_caption() -> None:
    assert batch_of(DEMO, [7, 12, 9]).shape == (3, 12)
    ids = batch_of(DEMO, [7, 12, 9], length=16)
    assert ids.shape == (3, 16)
    assert ids.dtype == np.int32
    assert ids.argmax(axis=1).tolist() == [6, 11, 8]


@pytest.fixture
def patient(triton: TritonServer, start_gateway: GatewayFactory) -> Iterator[GatewayClient]:
    """A gateway that refuses nothing: on a busy machine the capacity changes while it is loaded."""
    limits = {"max_inflight": 10_000, "max_wait_s": 3600, "request_timeout_s": 3600}
    with start_gateway(triton_address=triton.addresses.grpc, **limits) as client:
        yield client


def test_open_loop(patient: GatewayClient, tmp_path: Path) -> None:
    words = ["--http", patient.base_url.netloc.decode(), "--model", "demo", "--kinds", "rest-text"]
    assert openloop.main([*words, "--quick", "--seconds", "0.5", "--output", str(tmp_path)]) == 0
    results = Results.read(tmp_path / "openloop.benchmark.json")
    assert [row.labels["percent_of_capacity"] for row in results.rows] == [70, 100]
    assert all(row.values["errors"] == 0 for row in results.rows)
    assert results.checks[0].name.startswith("open loop, rest-text, 70 % of capacity")
    assert (tmp_path / "openloop.png").read_bytes().startswith(b"\x89PNG")


def test_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--seconds", "0.1", "--repeats", "1", "--output", str(tmp_path)]
    assert compare.main(["--repository", str(REPOSITORY), *words]) == 0
    results = Results.read(tmp_path / "compare.benchmark.json")
    ours = [row for row in results.rows if row.labels["system"] == targets.OURS]
    assert len(ours) == CLOSED + 1
    assert not [row for row in results.rows if row.values.get("errors")]
    measured = {row.labels["system"] for row in results.rows}
    padded = {targets.PADDED} if packed(DEMO) else set()
    assert measured == padded | {targets.OURS, targets.CEILING, targets.OPEN_LOOP}
    written = (tmp_path / "compare.md").read_text()
    assert written.strip() in capsys.readouterr().out
    for check in results.checks:
        assert f"| {check.name} |" in written
        assert check.value == check.value, f"{check.name} was not measured"


def test_a_comparison_that_is_stopped_is_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object) -> Iterator[Row]:
        times = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
        yield Row(
            {"system": targets.OURS, "kind": targets.IMAGE, "concurrency": 8},
            {"per_second": 5.0, **times, "errors": 0},
        )
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        compare.main(["--repository", str(REPOSITORY), "--output", str(tmp_path)])
    content = json.loads((tmp_path / "compare.benchmark.json").read_text())
    assert [row["values"]["per_second"] for row in content["rows"]] == [5.0]
    assert "| concurrency | 8 |" in (tmp_path / "compare.md").read_text()
