"""Dashboard, rules and alerts, on a real Prometheus that scrapes the real service."""

import hashlib
import json
import math
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import ROOT, SAMPLES, GatewayClient, GatewayFactory
from tests.deploy.prometheus import Prometheus, run_prometheus
from tests.gateway.tritons import add_copies, copied

RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "openclip.json").read_text())
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
# Triton has these where there is a GPU only; NVIDIA documents them.
GPU_ONLY = {
    "nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes",
    "nv_gpu_power_usage",
}  # fmt: skip
METRIC = re.compile(r"\b(?:openclip_\w+|nv_\w+)")
RECORDED = re.compile(r"\bopenclip:[\w:]+")
KEY = "a key of the tests"
LOAD_S = 60.0  # more than enough for every query to have seen something


def groups() -> list[dict[str, Any]]:
    return [g for path in RULES for g in yaml.safe_load(path.read_text())["groups"]]


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def targets() -> list[tuple[str, str]]:
    """Title and query of everything that the dashboard draws."""
    return [
        (panel["title"], target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    ]


def expressions() -> list[str]:
    variables = [each["query"]["query"] for each in DASHBOARD["templating"]["list"]]
    return [*(rule["expr"] for rule in rules()), *(expr for _, expr in targets()), *variables]


@pytest.fixture(scope="module")
def gateway(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayClient]:
    """Two worker processes that ask for a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys.write_text(f"keys:\n  - name: tests\n    sha256: {digest}\n")
    address = triton.addresses.grpc
    with start_gateway(triton_address=address, workers=2, api_keys_file=keys) as client:
        client.headers["authorization"] = f"Bearer {KEY}"
        yield client


@pytest.fixture(scope="module")
def loaded(gateway: GatewayClient) -> Iterator[GatewayClient]:
    """Under a light load of everything, wrong requests as well, while the tests run."""
    stopped = threading.Event()
    thread = threading.Thread(target=load, args=(gateway, stopped))
    thread.start()
    yield gateway
    stopped.set()
    thread.join()


def load(gateway: GatewayClient, stopped: threading.Event) -> None:
    image = (SAMPLES / "red-circle.png").read_bytes()
    known = [("authorization", f"Bearer {KEY}")]
    with (
        grpc.insecure_channel(gateway.grpc_address) as channel,
        httpx.Client(base_url=gateway.base_url, headers=gateway.headers, timeout=60) as client,
    ):
        stub = clip_pb2_grpc.ClipServiceStub(channel)
        for number in range(10_000):
            if stopped.wait(0.1):
                return
            texts = [
                "a red circle",
                f"number {number} of many words that make this text a long one",
            ]
            client.post("/v1/embeddings", json={"input": texts}).raise_for_status()
            client.post("/v1/embeddings/image", content=image).raise_for_status()
            items = [clip_pb2.Item(image=image)]
            stub.Classify(
                clip_pb2.ClassifyRequest(images=items, labels=["circle", "square"]),
                metadata=known, timeout=60,
            )  # fmt: skip
            bad = {"input": [f"data:image/png;base64,{number:04}"], "on_error": "skip"}
            client.post("/v1/embeddings", json=bad)
            client.post("/v1/embeddings", json={"model": "unknown", "input": "text"})
            client.get("/readyz")


@pytest.fixture(scope="module")
def prometheus(
    loaded: GatewayClient, triton: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    found = {
        "openclip-gateway": f"127.0.0.1:{loaded.base_url.port}",
        "openclip-triton": triton.addresses.metrics,
    }
    folder = tmp_path_factory.mktemp("prometheus")
    with run_prometheus(folder, found, key=KEY) as client:
        yield client


def metric_names(*pages: str) -> set[str]:
    return {
        line.partition("{")[0].partition(" ")[0] for page in pages for line in page.splitlines()
    }


def test_every_metric_that_is_named_exists(loaded: GatewayClient, triton: TritonServer) -> None:
    wanted = {name for each in expressions() for name in METRIC.findall(each)} - GPU_ONLY
    pages = f"http://{triton.addresses.metrics}/metrics", f"{loaded.base_url}/metrics"
    deadline = time.monotonic() + LOAD_S
    missing = wanted
    while missing and time.monotonic() < deadline:
        found = [httpx.get(page, headers=loaded.headers, timeout=30).text for page in pages]
        missing = wanted - metric_names(*found)
    assert not missing


def test_what_is_recorded_is_what_is_used() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for each in expressions() for name in RECORDED.findall(each)}
    assert used <= recorded


def test_both_are_scraped(prometheus: Prometheus) -> None:
    def up() -> bool:
        found = prometheus.query('up{job=~"openclip-.*"}')
        return [each["value"][1] for each in found] == ["1", "1"]

    wait_until(up, "both targets are up")


@pytest.mark.parametrize(("title", "query"), targets())
def test_every_panel_shows_something(prometheus: Prometheus, title: str, query: str) -> None:
    if set(METRIC.findall(query)) & GPU_ONLY:
        pytest.skip("needs a GPU")
    query = query.replace("$__rate_interval", "20s").replace("$model", ".*")
    wait_until(lambda: any(map(is_number, prometheus.query(query))), f"{title}: {query}")


@pytest.mark.parametrize("rule", [r for r in rules() if "record" in r], ids=lambda r: r["record"])
def test_every_recording_has_a_value(prometheus: Prometheus, rule: dict[str, Any]) -> None:
    wait_until(
        lambda: any(map(is_number, prometheus.query(rule["record"]))), f"{rule['record']} is there"
    )


def test_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    wait_until(lambda: all(r["health"] == "ok" for r in prometheus.rules()), "all rules are well")
    assert {r["name"] for r in prometheus.rules()} == {
        rule.get("record") or rule["alert"] for rule in rules()
    }


def test_a_target_that_is_down_is_alerted(tmp_path: Path) -> None:
    nowhere = {"openclip-gateway": "127.0.0.1:1", "openclip-triton": "127.0.0.1:1"}
    with run_prometheus(tmp_path, nowhere) as client:

        def pending() -> bool:
            states = {r["name"]: r.get("state") for r in client.rules()}
            return states["OpenclipTargetDown"] == "pending"

        wait_until(pending, "the alert is pending")


def test_a_model_that_is_not_ready_is_alerted(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    repository = copied(tmp_path)
    add_copies(repository, "broken", "gone")  # which the Triton does not serve
    with start_gateway(
        triton_address=triton.addresses.grpc, model_repository=repository, triton_verify_s=0.2
    ) as gateway:

        def seen() -> dict[str, str]:
            page = gateway.get("/metrics").text
            return dict(re.findall(r'^openclip_model_ready{model="(\w+)"} (\d)', page, re.M))

        wait_until(lambda: seen() == {"demo": "1", "broken": "0", "gone": "0"}, "all are checked")
        (repository / "gone.manifest.json").unlink()  # not served any more: nothing to alert of
        wait_until(lambda: len(gateway.get("/v1/models").json()["data"]) == 2, "it is dropped")
        found = {
            "openclip-gateway": f"127.0.0.1:{gateway.base_url.port}",
            "openclip-triton": triton.addresses.metrics,
        }
        with run_prometheus(tmp_path, found) as client:

            def pending() -> list[str]:
                [rule] = [r for r in client.rules() if r["name"] == "OpenclipModelNotReady"]
                return [each["labels"]["model"] for each in rule["alerts"]]

            wait_until(lambda: pending() == ["broken"], "the alert is pending")


def test_promtool_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    done = subprocess.run(
        [promtool, "check", "rules", *map(str, RULES)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rule", [r for r in rules() if "alert" in r], ids=lambda r: r["alert"])
def test_every_alert_has_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "docs/operations.md"
    assert anchor == rule["alert"].lower()
    assert f"\n### {rule['alert']}\n" in OPERATIONS


def test_every_metric_is_documented() -> None:
    source = (ROOT / "gateway" / "telemetry" / "metrics.py").read_text()
    names = set(re.findall(r'"(openclip_\w+)"', source))
    assert len(names) > 10
    missing = {name for name in names if not re.search(rf"`{name}(_total)?`", OPERATIONS)}
    assert not missing


def test_every_row_of_the_dashboard_is_documented() -> None:
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "row":
            assert f"\n| {panel['title']} | " in OPERATIONS


def test_every_panel_is_described_and_has_a_title_of_its_own() -> None:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)
    assert [panel["title"] for panel in panels if not panel.get("description")] == []


def test_every_stage_is_described() -> None:
    stages = re.search(r"`openclip_stage_duration_seconds`.*?: (`.*`)", OPERATIONS)
    assert stages is not None
    named = set(re.findall(r"`(\w+)`", stages[1]))
    assert "fetch" in named
    (panel,) = [each for each in DASHBOARD["panels"] if each["title"] == "Mean of each stage"]
    assert named <= set(re.findall(r"\w+", panel["description"]))


def test_both_kinds_of_encoder_are_drawn(prometheus: Prometheus) -> None:
    (query,) = [expr for title, expr in targets() if title == "Inferences"]
    query = query.replace("$__rate_interval", "20s").replace("$model", ".*")

    def drawn() -> bool:
        return {each["metric"]["model"] for each in prometheus.query(query)} == {
            "demo.image", "demo.text",
        }  # fmt: skip

    wait_until(drawn, "images and texts are drawn")


def is_number(result: dict[str, Any]) -> bool:
    return math.isfinite(float(result["value"][1]))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LOAD_S
    while not condition():
        assert time.monotonic() < deadline, f"not so: {what}"
        time.sleep(0.3)
