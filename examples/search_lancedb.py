"""Search a folder of images by text, with the vectors in LanceDB, an embedded database.

    python examples/search_lancedb.py FOLDER TEXT [DATABASE]

Images are embedded once: a second run embeds those alone that are new.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import lancedb
import pyarrow as pa
from openclip_triton import Client, Space

SERVER = os.environ.get("OPENCLIP_TRITON_SERVER", "127.0.0.1:8081")
BEST = 3
ROWS = 1_000  # embedded before they are written


def main(folder: Path, text: str, database: str = "images.lancedb") -> None:
    """Add the folder's new images to the database, and print those that are most like the text."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".jpg", ".png", ".webp"})
    with Client(SERVER) as client:
        space = client.space()
        table = open_table(lancedb.connect(database), space)
        known = {row["path"] for row in table.search().select(["path"]).to_list()}
        new = [path for path in paths if str(path) not in known]
        for rows in batches(client, space, new):
            table.add(rows)
        print(f"{len(new)} new images, {table.count_rows()} in the table")
        [query] = client.embed_texts([text], model=space.model)
    for row in table.search(query).distance_type("cosine").limit(BEST).to_list():
        print(f"{1 - row['_distance']:.4f}  {row['path']}")


def open_table(database: lancedb.DBConnection, space: Space) -> lancedb.table.Table:
    """Open a table for one embedding space: vectors of different models cannot be compared."""
    vector = pa.list_(pa.float32(), space.dimensions)
    schema = pa.schema([("path", pa.string()), ("vector", vector)])
    return database.create_table(f"images_{space.fingerprint[:12]}", schema=schema, exist_ok=True)


def batches(client: Client, space: Space, paths: list[Path]) -> Iterator[list[dict[str, object]]]:
    """Embed images in bounded memory; what fails is printed and left out."""
    rows: list[dict[str, object]] = []
    items = ((str(path), path) for path in paths)
    for result in client.stream(items, model=space.model, fingerprint=space.fingerprint):
        if result.vector is None:
            print(f"{result.id}: {result.error}", file=sys.stderr)
            continue
        rows.append({"path": result.id, "vector": result.vector})
        if len(rows) == ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
