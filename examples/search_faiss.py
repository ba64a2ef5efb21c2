"""Search what `openclip-triton embed-images ... --output EMBEDDINGS` wrote, through a FAISS index.

    python examples/search_faiss.py EMBEDDINGS TEXT

autofaiss chooses the kind of index for the number of vectors and the memory that it may take, and
builds it from the folder as it is.
"""

import os
import sys
from pathlib import Path

import autofaiss
import faiss
import pyarrow.parquet as pq
from openclip_triton import Client

SERVER = os.environ.get("OPENCLIP_TRITON_SERVER", "127.0.0.1:8081")
BEST = 3


def main(folder: Path, text: str) -> None:
    """Build the folder's index, unless it is there, and print the images most like the text."""
    path = folder / "image.index"
    if not path.exists():
        build(folder, path)
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    parts = sorted((folder / "metadata").glob("*.parquet"))  # in the order of the vectors
    names = pq.read_table(parts, columns=["image_path"])["image_path"]
    with Client(SERVER) as client:
        cosines, rows = index.search(client.embed_texts([text]), BEST)
    for cosine, row in zip(cosines[0], rows[0], strict=True):
        print(f"{cosine:.4f}  {names[int(row)]}")


def build(folder: Path, path: Path) -> None:
    """Build an index for inner products, the cosines of unit vectors."""
    autofaiss.build_index(
        str(folder / "img_emb"),
        index_path=str(path),
        index_infos_path=str(path.with_suffix(".json")),
        metric_type="ip",
        max_index_memory_usage="4G",
        current_memory_available="8G",
        verbose=30,  # warnings
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
