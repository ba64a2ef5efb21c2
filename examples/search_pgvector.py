"""Search a folder of images by text, with the vectors in PostgreSQL.

    python examples/search_pgvector.py FOLDER TEXT DATABASE

DATABASE is a connection string, such as postgresql://user@host/name. The server has the extension
pgvector (of Debian's packages, postgresql-17-pgvector), which this program creates in the database.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
from openclip_triton import Client, Space
from psycopg.sql import SQL, Identifier

SERVER = os.environ.get("OPENCLIP_TRITON_SERVER", "127.0.0.1:8081")
BEST = 3
CREATE = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS {table} (path text PRIMARY KEY, embedding vector({dimensions}) NOT NULL);
CREATE INDEX IF NOT EXISTS {index} ON {table} USING hnsw (embedding vector_cosine_ops);
"""
WRITE = """
INSERT INTO {table} VALUES (%s, %s) ON CONFLICT (path) DO UPDATE SET embedding = excluded.embedding
"""
SEARCH = """
SELECT 1 - (embedding <=> %(query)s::vector), path FROM {table}
ORDER BY embedding <=> %(query)s::vector LIMIT %(best)s
"""


def main(folder: Path, text: str, database: str) -> None:
    """Write the folder's images into the database, and print those that are most like the text."""
    with Client(SERVER) as client, psycopg.connect(database) as connection:
        space = client.space()
        # A table for each embedding space: vectors of different models cannot be compared.
        name = f"images_{space.fingerprint[:12]}"
        names = {
            "table": Identifier(name),
            "index": Identifier(f"{name}_hnsw"),
            "dimensions": SQL(str(space.dimensions)),
        }
        connection.execute(SQL(CREATE).format(**names))
        connection.cursor().executemany(SQL(WRITE).format(**names), rows(client, space, folder))
        connection.commit()
        [query] = client.embed_texts([text], model=space.model)
        given = {"query": str(query.tolist()), "best": BEST}
        for cosine, path in connection.execute(SQL(SEARCH).format(**names), given):
            print(f"{cosine:.4f}  {path}")


def rows(client: Client, space: Space, folder: Path) -> Iterator[tuple[str, str]]:
    """Embed the folder's images in bounded memory; what fails is printed and left out."""
    paths = (path for path in folder.rglob("*") if path.suffix in {".jpg", ".png", ".webp"})
    items = ((str(path), path) for path in paths)
    for result in client.stream(items, model=space.model, fingerprint=space.fingerprint):
        if result.vector is None:
            print(f"{result.id}: {result.error}", file=sys.stderr)
        else:
            yield result.id, str(result.vector.tolist())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
