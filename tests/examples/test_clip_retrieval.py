"""clip-retrieval's own reader, `embedding_reader`, opens what a bulk job wrote."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from openclip_triton import Client

from tests.client.conftest import command, environment
from tests.client.jobs import write_tar
from tests.conftest import SAMPLES, GatewayClient
from tests.examples.test_examples import python_with

# Prints the vectors and the metadata of both halves, as JSON; batches cross the files' bounds.
READ = """
import json, sys
from embedding_reader import EmbeddingReader
found = {}
for half in ("img_emb", "text_emb"):
    reader = EmbeddingReader(
        embeddings_folder=f"{sys.argv[1]}/{half}", metadata_folder=f"{sys.argv[1]}/metadata",
        meta_columns=["image_path", "caption", "url"], file_format="parquet_npy",
    )
    rows = found[half] = {"vectors": [], "image_path": [], "caption": [], "url": []}
    for vectors, metadata in reader(batch_size=4, show_progress=False):
        rows["vectors"] += vectors.tolist()
        for name in ("image_path", "caption", "url"):
            rows[name] += metadata[name].tolist()
print(json.dumps(found))
"""


def test_both_halves_are_read_row_by_row(api: GatewayClient, tmp_path: Path) -> None:
    pictures = sorted(SAMPLES.iterdir())
    python = python_with(False)
    for number in range(3):
        members = []
        for path in pictures[number::3]:
            data = b"torn" if path.stem == "blue-cross" else path.read_bytes()
            members += [
                (f"{path.stem}{path.suffix}", data),
                (f"{path.stem}.txt", path.stem.encode()),
                (
                    f"{path.stem}.json",
                    json.dumps({"url": f"https://a.example/{path.stem}"}).encode(),
                ),
            ]
        write_tar(tmp_path / f"tars/{number}.tar", members)
    out = tmp_path / "out"
    options = ("--metadata", "--allow-failures")
    ran = command(api.grpc_address, "embed-pairs", tmp_path / "tars", "-o", out, *options)
    assert ran.returncode == 0, ran.stderr

    read = subprocess.run(
        [python, "-c", READ, out],
        env=environment(api.grpc_address), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    found: dict[str, Any] = json.loads(read.stdout)
    given = [path for number in range(3) for path in pictures[number::3]]
    whole = [path for path in given if path.stem != "blue-cross"]
    names = [path.stem for path in whole]
    with Client(api.grpc_address) as client:
        expected = {"img_emb": client.embed_images(whole), "text_emb": client.embed_texts(names)}
    for half, rows in found.items():
        assert rows["image_path"] == rows["caption"] == names
        assert rows["url"] == [f"https://a.example/{name}" for name in names]
        np.testing.assert_allclose(rows["vectors"], expected[half], atol=1e-3)  # of float16
    assert len(whole) == len(pictures) - 1
