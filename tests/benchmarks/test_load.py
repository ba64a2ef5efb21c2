import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.reporting.results import Results, Row
from benchmarks.traffic.errors import BenchmarkError
from tests.conftest import GatewayClient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("load")


@pytest.fixture(scope="module")
def rows(api: GatewayClient, folder: Path) -> Iterator[dict[str, Row]]:
    """Every kind of user, each in a Locust of its own, all at the same time."""

    def run(number: int) -> Row:
        user = load.USERS[number]
        url = str(api.base_url).rstrip("/")
        return load.run(url, api.grpc_address, "demo", user, 2, 3, folder, seed=number)

    with ThreadPoolExecutor(len(load.USERS)) as pool:
        done = pool.map(run, range(len(load.USERS)))
        yield dict(zip(load.USERS, done, strict=True))


@pytest.mark.parametrize("user", load.USERS)
def test_every_kind_of_user_is_served(rows: dict[str, Row], folder: Path, user: str) -> None:
    row = rows[user]
    assert row.labels == {"user": user, "concurrency": 2}
    assert row.values["errors"] == 0
    assert row.values["requests"] > 0
    assert row.values["per_second"] > 0
    assert 0 < row.values["p50_ms"] <= row.values["p95_ms"] <= row.values["p99_ms"]
    assert "<html" in (folder / f"{user}-2.html").read_text()
    for name in ("stats", "failures", "stats_history"):
        assert (folder / f"{user}-2_{name}.csv").stat().st_size


def test_one_table_and_one_file_of_results(api: GatewayClient, tmp_path: Path) -> None:
    """The load rises over the run, and finds a service that has no such model."""
    url = str(api.base_url).rstrip("/")
    words = ["--url", url, "--grpc", api.grpc_address, "--output", str(tmp_path), "--quick"]
    chosen = ["--users", "RestText", "--concurrency", "4", "--shape", "ramp"]
    assert load.main([*words, *chosen, "--model", "demo"]) == 0
    [row] = Results.read(tmp_path / "load.benchmark.json").rows
    assert row.labels == {"user": "RestText", "concurrency": 4, "shape": "ramp"}
    assert "| shape | ramp |\n| per second |" in (tmp_path / "load.md").read_text()
    assert load.main([*words, *chosen[:4], "--model", "nothing"]) == 2
    assert json.loads((tmp_path / "load.benchmark.json").read_text())["rows"][0]["values"]["errors"]


def test_a_run_that_sent_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"requests": 0}')
    with pytest.raises(BenchmarkError, match="Locust sent nothing"):
        load.read(path)


def test_a_locust_that_does_not_end_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(load, "STOPPING", -0.9)
    with pytest.raises(BenchmarkError, match=r"Locust with RestText did not end in 0\.1 s"):
        load.run("http://127.0.0.1:1", "127.0.0.1:1", "", "RestText", 1, 1, tmp_path)


def test_what_locust_says_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"(?s)Locust with NoUser failed: .*NoUser"):
        load.run("http://127.0.0.1:1", "127.0.0.1:1", "", "NoUser", 1, 1, tmp_path)
