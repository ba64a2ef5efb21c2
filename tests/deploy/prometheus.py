"""A real Prometheus for tests, with the project's own configuration."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import ROOT, free_port

CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
START_S = 30.0


class Prometheus(httpx.Client):
    """A client of a running Prometheus."""

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = self.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        groups = self.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextlib.contextmanager
def run_prometheus(
    folder: Path, targets: Mapping[str, str], key: str | None = None
) -> Iterator[Prometheus]:
    """Prometheus with the project's configuration, but for where it finds what it scrapes.

    Args:
        folder: Where it keeps its data.
        targets: host:port for each job.
        key: What the gateway asks for, where it does.
    """
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian's package of this name)")
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
    config["rule_files"] = [str(CONFIG.parent / path) for path in config["rule_files"]]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        if key and job["job_name"] == "openclip-gateway":
            job["authorization"] = {"credentials": key}
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        with Prometheus(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            _wait_ready(client, process)
            yield client
        process.terminate()
        process.wait(20)
    finally:
        process.kill()
        process.wait(60)


def _wait_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "Prometheus ended before it was ready"
        with contextlib.suppress(httpx.TransportError):
            if client.get("/-/ready").status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    pytest.fail("Prometheus was not ready in time")
