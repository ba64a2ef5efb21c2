"""Bulk jobs whose output is a table of Lance, with the LanceDB of `make test-examples`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from openclip_triton import Client

from tests.client.conftest import environment
from tests.conftest import SAMPLES, GatewayClient
from tests.examples.test_examples import python_with

# Prints the rows of a table, and what its schema says of the model, as JSON.
ROWS = """
import json, sys, lancedb
table = lancedb.connect(sys.argv[1]).open_table(sys.argv[2])
about = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
rows = table.to_arrow().to_pylist()
best = table.search(rows[0]["embedding"]).limit(1).to_list()[0]["path"]
print(json.dumps({"rows": rows, "about": about, "best": best}))
"""


def run(api: GatewayClient, *arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [python_with(False), *map(str, arguments)],
        cwd=cwd, env=environment(api.grpc_address), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_table_holds_what_parquet_does(api: GatewayClient, tmp_path: Path) -> None:
    options = ("--output", "deep/vectors.lance", "--shard-size", 5)
    command = ("-m", "openclip_triton", "embed-images", SAMPLES, *options)
    done = run(api, *command, "--dimensions", 8, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["vectors.lance"]
    again = run(api, *command, cwd=tmp_path)
    assert again.returncode == 2
    assert "vectors.lance exists already; give --overwrite" in again.stderr
    replaced = run(api, *command, "--overwrite", cwd=tmp_path)
    assert replaced.returncode == 0, replaced.stderr

    opened = run(api, "-c", ROWS, tmp_path / "deep", "vectors", cwd=tmp_path)
    assert opened.returncode == 0, opened.stderr
    found: dict[str, Any] = json.loads(opened.stdout)
    paths = sorted(SAMPLES.iterdir())
    assert [row["path"] for row in found["rows"]] == [str(path) for path in paths]
    with Client(api.grpc_address) as client:
        vectors = client.embed_images(paths)
        about = {"model": "demo", "fingerprint": client.space().fingerprint}
    np.testing.assert_allclose([row["embedding"] for row in found["rows"]], vectors, atol=1e-5)
    assert (found["about"], found["best"]) == (about, str(paths[0]))


def test_without_lancedb_its_extra_is_named(api: GatewayClient, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "openclip_triton", "embed-images", SAMPLES, "-o", "vectors.lance"],
        cwd=tmp_path, env=environment(api.grpc_address), capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "lancedb is not installed: pip install 'openclip-triton-client[lance]'" in ran.stderr
    assert list(tmp_path.iterdir()) == []
