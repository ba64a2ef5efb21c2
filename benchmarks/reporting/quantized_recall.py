"""Recall@10 of searches with int8 and binary vectors, relative to float vectors.

`python -m benchmarks.reporting.quantized_recall DOCUMENTS QUERIES` embeds both with a running
service, and searches the documents for each query. Each is a folder of images, or a file with a
text per line. Recall is the share of the ten nearest documents by float vectors that are found.
"""

import asyncio
import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import program
from benchmarks.reporting.tables import markdown
from benchmarks.traffic.connection import HttpConnection, RequestFailed
from benchmarks.traffic.errors import BenchmarkError
from benchmarks.traffic.requests import REST, Request

BEST, CANDIDATES, BATCH = 10, 40, 64
KINDS = {"float": np.float32, "int8": np.float32, "ubinary": np.uint8}
Vectors = dict[str, np.ndarray]  # of each kind: [n, D], [n, D], and [n, D / 8]


async def embed(path: Path, address: str, model: str | None) -> Vectors:
    """The vectors of a folder of images, or of the lines of a file.

    Raises:
        BenchmarkError: They cannot be read, or the service refuses them.
    """
    found: dict[str, list[object]] = {kind: [] for kind in KINDS}
    connection = HttpConnection(address)
    try:
        for items in _batches(path):
            body = {**items, "model": model, "embedding_types": list(KINDS)}
            answer = await connection.send(Request(REST, "/v2/embed", json.dumps(body).encode()))
            for kind, rows in json.loads(answer)["embeddings"].items():
                found[kind] += rows
    except (OSError, UnicodeDecodeError, RequestFailed) as error:
        raise BenchmarkError(f"{path}: {error}") from error
    finally:
        await connection.close()
    return {kind: np.array(found[kind], dtype) for kind, dtype in KINDS.items()}


def _batches(path: Path) -> Iterator[dict[str, list[str]]]:
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        for start in range(0, max(len(files), 1), BATCH):
            batch = files[start : start + BATCH]
            yield {"images": [base64.b64encode(each.read_bytes()).decode() for each in batch]}
    else:
        lines = path.read_text().splitlines()
        for start in range(0, max(len(lines), 1), BATCH):
            yield {"texts": lines[start : start + BATCH]}


def recalls(documents: Vectors, queries: Vectors) -> list[tuple[str, int, float]]:
    """Each way to search: its name, bytes of a document's vector, and recall in percent."""
    signs, asked = (
        2.0 * np.unpackbits(each["ubinary"], axis=1) - 1 for each in (documents, queries)
    )
    int8 = documents["int8"] / np.linalg.norm(documents["int8"], axis=1, keepdims=True)
    true = _best(queries["float"] @ documents["float"].T)
    near = _best(asked @ signs.T, CANDIDATES)  # those with the smallest Hamming distance

    def rescored(scores: np.ndarray) -> np.ndarray:
        order = _best(np.take_along_axis(scores, near, axis=1))
        return np.take_along_axis(near, order, axis=1)

    size, again = signs.shape[1], f"binary, {CANDIDATES} re-scored by float queries with"
    ways = (
        ("int8", size, _best(queries["int8"] @ int8.T)),
        ("binary", size // 8, near[:, :BEST]),
        (f"{again} binary", size // 8, rescored(queries["float"] @ signs.T)),
        (f"{again} int8", size // 8 + size, rescored(queries["float"] @ int8.T)),
    )
    hits = ((found[:, :, None] == true[:, None, :]).any(axis=1).mean() for *_, found in ways)
    return [(*way[:2], 100 * hit) for way, hit in zip(ways, map(float, hits), strict=True)]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit code."""
    made = program.parser("reporting.quantized_recall", __doc__)
    made.add_argument("documents", type=Path, metavar="DOCUMENTS")
    made.add_argument("queries", type=Path, metavar="QUERIES")
    made.add_argument("--address", default="127.0.0.1:8080", metavar="HOST:PORT",
                      help="of the service (default: 127.0.0.1:8080)")  # fmt: skip
    made.add_argument("--model", help="its id; optional if there is a default")
    given = made.parse_args(arguments)
    documents, queries = (
        asyncio.run(embed(each, given.address, given.model))
        for each in (given.documents, given.queries)
    )
    print(f"{len(queries['float'])} queries, {len(documents['float'])} documents\n")
    print(markdown(("search", "bytes of a vector", "recall, %"), recalls(documents, queries)))
    return 0


def _best(scores: np.ndarray, count: int = BEST) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


if __name__ == "__main__":
    sys.exit(program.run(main))
