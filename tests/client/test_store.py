"""Kept progress: what was done stays done, and is never mixed with another run's."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from openclip_triton.bulk.errors import StoreError
from openclip_triton.bulk.listing import Entry
from openclip_triton.bulk.store import Outcome, Store, discard, forget

RUN = {"model": "demo", "fingerprint": "f1"}
VECTOR = np.arange(4, dtype=np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.npy.progress"


def entries(*keys: str, stamp: str = "1") -> list[Entry]:
    return [Entry(key, stamp) for key in keys]


def test_what_is_done_is_not_pending(path: Path) -> None:
    store = Store(path)
    store.plan(entries("a", "b", "c", "d"), once=True)
    store.record(Entry("c", "1"), Outcome(VECTOR, truncated=True))
    store.record(Entry("a", "1"), Outcome(None, code="invalid_image", reason="bad"))
    store.close()

    store = Store(path)
    store.plan(entries("a", "b", "c", "d"), once=True)
    assert [entry.key for entry in store.pending()] == ["b", "d"]
    assert store.count_pending() == 2
    assert [key for key, _ in store.rows()] == ["c"]
    counts = store.counts()
    assert (counts.total, counts.done, counts.failed, counts.truncated) == (4, 1, 1, 1)
    [failure] = store.failures()
    assert (failure.position, failure.key, failure.reason) == (0, "a", "bad")
    store.close()


def test_a_changed_file_is_done_again(path: Path) -> None:
    store = Store(path)
    store.plan(entries("a", "b"), once=True)
    store.record(Entry("a", "1"), Outcome(VECTOR))
    store.plan([Entry("a", "2"), Entry("b", "1")], once=True)
    assert [entry.key for entry in store.pending()] == ["a", "b"]
    assert list(store.rows()) == []
    store.close()


def test_a_failure_that_may_pass_is_tried_again_by_the_next_run(path: Path) -> None:
    store = Store(path)
    store.plan(entries("a", "b"), once=True)
    store.record(Entry("a", "1"), Outcome(None, code="overloaded", reason="full", again=True))
    assert [entry.key for entry in store.pending()] == ["b"]
    store.plan(entries("a", "b"), once=True)
    assert [entry.key for entry in store.pending()] == ["a", "b"]
    store.close()


def test_rows_follow_the_plan_and_not_the_order_of_answers(path: Path) -> None:
    names = [f"{number:04}" for number in range(1200)]  # more than a page
    store = Store(path)
    store.plan(entries(*names), once=True)
    assert [entry.key for entry in store.pending()] == names
    for name in reversed(names):
        store.record(Entry(name, "1"), Outcome(np.full(4, int(name), np.float32)))
    assert [(key, int(vector[0])) for key, vector in store.rows()] == [(n, int(n)) for n in names]
    store.close()


def test_equal_texts_are_embedded_once_and_written_each_time(path: Path) -> None:
    store = Store(path)
    store.plan(entries("a", "b", "a"), once=False)
    assert [entry.key for entry in store.pending()] == ["a", "b"]
    store.record(Entry("a", "1"), Outcome(VECTOR))
    assert [key for key, _ in store.rows()] == ["a", "a"]
    store.plan(entries("a", "b", "a"), once=True)
    assert [key for key, _ in store.rows()] == ["a"]
    store.close()


def test_another_run_is_refused(path: Path) -> None:
    store = Store(path)
    store.agree(RUN)
    store.agree(RUN)
    with pytest.raises(StoreError, match=r"fingerprint was f1, now f2.*--overwrite"):
        store.agree(RUN | {"fingerprint": "f2"})
    store.close()


def test_two_runs_at_a_time_are_refused(path: Path) -> None:
    store = Store(path)
    with pytest.raises(StoreError, match="another run is writing"):
        Store(path)
    store.close()
    Store(path).close()


def test_a_file_of_something_else_is_left_alone(path: Path) -> None:
    path.write_bytes(b"somebody's own notes " * 100)
    with pytest.raises(StoreError, match="not a file of kept progress"):
        Store(path)
    assert path.read_bytes().startswith(b"somebody's")


def test_what_was_not_saved_is_pending_again(path: Path) -> None:
    store = Store(path)
    store.plan(entries("a", "b"), once=True)
    store.record(Entry("a", "1"), Outcome(VECTOR))
    store.save()
    store.record(Entry("b", "1"), Outcome(VECTOR))
    copy = path.with_name("as the power failed")
    copy.write_bytes(path.read_bytes())
    found = sqlite3.connect(copy)
    assert found.execute("SELECT key FROM done").fetchall() == [(b"a",)]
    found.close()
    store.close()


def test_discarding_leaves_nothing(path: Path) -> None:
    Store(path).close()
    discard(path)
    discard(path)
    assert list(path.parent.iterdir()) == []


def test_what_is_no_progress_is_forgotten_as_well(path: Path) -> None:
    forget(path)
    path.write_bytes(b"something else" * 100)
    forget(path)
    assert not path.exists()
