"""Progress of a long run on disk: it survives Ctrl-C, `kill -9` and power cuts.

One SQLite file next to the output. `items` lists the entries of this run, in order; `done` holds
each outcome by key and stamp, so that a file that has changed is embedded again.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openclip_triton.bulk.errors import StoreError
from openclip_triton.bulk.listing import Entry
from openclip_triton.values import Vector

VERSION = 1
PAGE = 500
SAVE_EVERY = 256  # outcomes
SAVE_EVERY_S = 1.0

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE items (position INTEGER PRIMARY KEY, key BLOB NOT NULL, stamp TEXT NOT NULL);
CREATE INDEX items_key ON items (key);
CREATE TABLE done (
    key BLOB PRIMARY KEY, stamp TEXT NOT NULL, vector BLOB, truncated INTEGER NOT NULL,
    code TEXT, reason TEXT, again INTEGER NOT NULL
);
"""
_OUTCOMES = "FROM items JOIN done ON done.key = items.key AND done.stamp = items.stamp"
_PENDING = """
FROM items LEFT JOIN done ON done.key = items.key AND done.stamp = items.stamp
WHERE done.key IS NULL AND items.position > ? AND NOT EXISTS
    (SELECT 1 FROM items e WHERE e.key = items.key AND e.position < items.position)
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an entry: a vector or an error."""

    vector: Vector | None
    truncated: bool = False
    code: str = ""
    reason: str = ""
    again: bool = False  # whether a later run retries


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry without a vector."""

    position: int  # in the listing, from 0
    key: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Number of entries by outcome."""

    total: int
    done: int  # with a vector
    failed: int
    truncated: int


class Store:
    """The progress of one output, locked by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()  # the stream's reader threads call `pending`
        self._unsaved = 0
        self._saved_at = time.monotonic()
        try:
            self._db = sqlite3.connect(path, timeout=0, check_same_thread=False)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("BEGIN IMMEDIATE")
            if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._db.execute(statement)
            self._db.commit()
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path}: {_explain(error)}") from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path} is not a file of kept progress: {error}") from error

    def agree(self, run: Mapping[str, str]) -> None:
        """Store the parameters of this run, or compare them with those of an earlier one.

        Raises:
            StoreError: They differ; the message names each difference.
        """
        now = {"version": str(VERSION), **run}
        with self._lock:
            kept: dict[str, str] = dict(self._db.execute("SELECT name, value FROM meta"))
            if not kept:
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", now.items())
                self._db.commit()
                return
        differences = [
            f"{name} was {kept.get(name, 'not set')}, now {value}"
            for name, value in now.items()
            if kept.get(name) != value
        ]
        if differences:
            raise StoreError(
                f"{self.path} holds the progress of another run: {'; '.join(differences)}. "
                "Give the same options to continue, or --overwrite to start over"
            )

    def plan(self, entries: Iterable[Entry], *, once: bool) -> None:
        """Store the entries to embed, in order, and forget failures that may pass.

        Args:
            entries: All entries of the output.
            once: Whether to drop repeated entries; otherwise each gets a row.
        """
        rows = ((position, _pack(e.key), e.stamp, once) for position, e in enumerate(entries))
        insert = (
            "INSERT INTO items SELECT ?1, ?2, ?3 "
            "WHERE NOT (?4 AND EXISTS (SELECT 1 FROM items WHERE key = ?2))"
        )
        with self._lock:
            self._db.execute("DELETE FROM items")
            self._db.executemany(insert, rows)
            self._db.execute("DELETE FROM done WHERE again")
            self._db.commit()

    def pending(self) -> Iterator[Entry]:
        """Yield the entries that are not done, in order, each key once."""
        position = -1
        columns = "items.position, items.key, items.stamp"
        query = f"SELECT {columns} {_PENDING} ORDER BY items.position LIMIT {PAGE}"
        while True:
            with self._lock:
                page = self._db.execute(query, (position,)).fetchall()
            if not page:
                return
            for _, key, stamp in page:
                yield Entry(_unpack(key), stamp)
            position = page[-1][0]

    def count_pending(self) -> int:
        """Number of entries that `pending` yields."""
        with self._lock:
            return int(self._db.execute(f"SELECT count(*) {_PENDING}", (-1,)).fetchone()[0])

    def record(self, entry: Entry, outcome: Outcome) -> None:
        """Store an outcome; it is on disk within a second of further results, or after `save`."""
        packed = None if outcome.vector is None else outcome.vector.astype("<f4").tobytes()
        row = (
            _pack(entry.key), entry.stamp, packed, outcome.truncated,
            outcome.code, outcome.reason, outcome.again,
        )  # fmt: skip
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._unsaved += 1
            late = time.monotonic() - self._saved_at >= SAVE_EVERY_S
            if late or self._unsaved >= SAVE_EVERY:
                self.save()

    def save(self) -> None:
        """Commit all recorded outcomes to disk."""
        with self._lock:
            self._db.commit()
            self._unsaved = 0
            self._saved_at = time.monotonic()

    def counts(self) -> Counts:
        """Count the entries by outcome."""
        query = f"SELECT count(vector), count(*) - count(vector), sum(truncated) {_OUTCOMES}"
        with self._lock:
            total = self._db.execute("SELECT count(*) FROM items").fetchone()[0]
            done, failed, truncated = self._db.execute(query).fetchone()
        return Counts(total, done, failed, truncated or 0)

    def is_empty(self) -> bool:
        """Whether no run has recorded an outcome yet."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM done LIMIT 1").fetchone() is None

    def rows(self) -> Iterator[tuple[str, Vector]]:
        """Yield keys and vectors of the successful entries, in order."""
        query = f"SELECT items.key, vector {_OUTCOMES} WHERE vector NOT NULL ORDER BY position"
        for key, vector in self._db.execute(query):
            yield _unpack(key), np.frombuffer(vector, "<f4")

    def failures(self) -> Iterator[Failure]:
        """Yield the failed entries, in order."""
        columns = "position, items.key, code, reason"
        query = f"SELECT {columns} {_OUTCOMES} WHERE vector IS NULL ORDER BY position"
        for position, key, code, reason in self._db.execute(query):
            yield Failure(position, _unpack(key), code, reason)

    def close(self) -> None:
        """Commit, and release the lock."""
        with self._lock:
            self._db.commit()
            self._db.close()


def forget(path: Path) -> None:
    """Remove the progress of earlier runs.

    Raises:
        StoreError: Another run is writing the same output.
    """
    if not path.exists():
        return
    with closing(sqlite3.connect(path, timeout=0)) as held:
        try:
            held.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path}: {_explain(error)}") from error
        except sqlite3.DatabaseError:
            pass  # not a progress file, so nobody holds it
        discard(path)


def discard(path: Path) -> None:
    """Delete the files of kept progress."""
    for name in (path, path.with_name(path.name + "-journal")):
        with suppress(FileNotFoundError):
            name.unlink()


def _pack(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _unpack(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def _explain(error: sqlite3.OperationalError) -> str:
    if "locked" in str(error):
        return "another run is writing the same output"
    return str(error)
