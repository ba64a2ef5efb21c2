"""Clients of other makers, as they are on PyPI or in their documentation: `make test-clients`."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import numpy as np
import pytest

from server.launcher import TritonServer
from tests.conftest import ROOT, SAMPLES, GatewayClient, GatewayFactory
from tests.other_clients.calls import BEST, CALLS, DOCUMENTS, QUERY, TEXTS, Client, Kind, Service

PYTHON = ROOT / ".venv" / "clients" / "bin" / "python"
PICTURE = SAMPLES / "red-circle.png"
WITHOUT_TELEMETRY = {
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it is fetched at import
}


@pytest.fixture(scope="module")
def api(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayClient]:
    """A gateway with default settings, but that it runs batches."""
    if not PYTHON.exists():
        pytest.skip("needs the clients of other makers: make test-clients")
    folder = tmp_path_factory.mktemp("batches")
    with start_gateway(triton_address=triton.addresses.grpc, batch_dir=folder) as client:
        assert client.get("/readyz").status_code == 200
        yield client


@pytest.fixture(scope="module")
def answers(api: httpx.Client) -> dict[str, dict[str, Any]]:
    """What each call answered, by the names of the client and the kind."""
    ran = subprocess.run(
        [PYTHON, "-m", "tests.other_clients.calls", str(api.base_url).rstrip("/"), PICTURE],
        cwd=ROOT, env=os.environ | WITHOUT_TELEMETRY, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: dict[str, dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def expected(api: httpx.Client) -> dict[Kind, Any]:
    """What each kind of call should answer."""
    given = [*TEXTS, Service("", PICTURE).data_url, QUERY, *DOCUMENTS]
    response = api.post("/v1/embeddings", json={"input": given})
    vectors = np.array([entry["embedding"] for entry in response.json()["data"]])
    texts, image, query, documents = np.split(vectors, [2, 3, 4])
    cosines = (documents @ query[0]).tolist()
    order = sorted(enumerate(cosines), key=lambda each: -each[1])[:BEST]
    return {"texts": texts, "image": image, "rerank": order, "models": ["demo"], "batch": texts}


CASES = [(client, kind) for client, calls in CALLS.items() for kind in calls]


@pytest.mark.parametrize(
    ("client", "kind"), CASES, ids=[f"{client.name}-{kind}" for client, kind in CASES]
)
def test_a_call_is_answered(
    client: Client, kind: Kind, answers: dict[str, dict[str, Any]], expected: dict[Kind, Any]
) -> None:
    outcome = answers[client.name][kind]
    assert "error" not in outcome, outcome["error"]
    if kind == "models":
        assert outcome["answer"] == expected[kind]
        return
    if "Vision" in client.name and kind == "image":
        # It sends every picture as a JPEG, so that the vector is only near.
        cosine = np.dot(outcome["answer"][0], expected[kind][0])
        assert cosine > 0.99
        return
    np.testing.assert_allclose(outcome["answer"], expected[kind], atol=1e-5)


def table() -> str:
    """The table of clients and calls, with the versions that they are tested with."""
    locked = (ROOT / "requirements" / "clients.txt").read_text()
    versions = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", locked, re.MULTILINE))
    kinds = get_args(Kind)
    rows = [
        f"| client | tested with | base URL | {' | '.join(kinds)} |",
        "|---|---|---" + "|---" * len(kinds) + "|",
    ]
    for client, calls in CALLS.items():
        cells = " | ".join("yes" if kind in calls else "" for kind in kinds)
        package = client.package
        tested = f"{package} {versions[package]}" if package else "the bodies of its documentation"
        rows.append(
            f"| {client.name} | {tested} | `http://127.0.0.1:8080{client.base}` | {cells} |"
        )
    return "\n".join(rows)


def test_the_table_in_the_docs_is_that_of_the_calls() -> None:
    assert table() in (ROOT / "docs" / "api.md").read_text()
