"""Batches with answers that are staged: late, refused, torn, expired; and what is deleted when."""

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest

from gateway.errors import DeadlineExceeded, Overloaded, TooLarge, Unauthenticated, Unavailable
from gateway.operations.batches import documents, lines, runner
from gateway.operations.batches import space as spaces
from gateway.operations.batches.lines import Answered, Progress
from gateway.operations.batches.objects import BatchObject, RequestCounts
from gateway.operations.batches.runner import Runner
from gateway.operations.batches.space import Space, StoreLimits
from gateway.operations.batches.store import Store, StoreError
from tests.gateway.waiting import until

LIMITS = StoreLimits(bytes=10**6, objects=100, lines=1_000, keep_s=3_600)
GOOD = Answered(200, "request", b'{"data": []}')


def content(count: int) -> bytes:
    each = {"method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}
    return b"".join(
        json.dumps({"custom_id": f"id-{number}"} | each).encode() + b"\n" for number in range(count)
    )


@pytest.fixture
def kept(tmp_path: Path) -> Store:
    return Store(tmp_path / "folder", LIMITS)


@contextlib.asynccontextmanager
async def running(
    kept: Store, answer: object, quiet_s: Callable[[], float] = lambda: 60.0
) -> AsyncIterator[None]:
    task = asyncio.create_task(Runner(kept, answer, quiet_s).run())  # type: ignore[arg-type]
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def end_of(space: Space, batch: BatchObject) -> BatchObject:
    await until(lambda: space.batch(batch.id).status in {"completed", "expired", "failed"})
    return space.batch(batch.id)


def answered(space: Space, file_id: str | None) -> list[dict[str, object]]:
    return [json.loads(each) for each in space.content(file_id or "").read_text().splitlines()]


def added(space: Space, count: int) -> BatchObject:
    return space.add_batch(space.add_file(content(count), "input", None).id, None, None)


async def test_what_may_be_answered_later_is_asked_again(kept: Store) -> None:
    asked: Counter[bytes] = Counter()
    errors = [Overloaded("full", retry_after_s=0.01), Unavailable("away", retry_after_s=0.01)]

    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        asked[body] += 1
        if asked[body] <= len(errors):
            raise errors[asked[body] - 1]
        return GOOD

    space = kept.space(None)
    batch = added(space, 1)
    async with running(kept, answer):
        found = await end_of(space, batch)
    assert found.request_counts.completed == 1
    assert asked.total() == 3


async def test_a_line_that_is_always_late_ends_in_the_error_file(kept: Store) -> None:
    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        if last:
            return Answered(504, "request", b'{"error": {}}')
        raise DeadlineExceeded("late")

    space = kept.space(None)
    batch = added(space, 1)
    async with running(kept, answer):
        found = await end_of(space, batch)
    [line] = answered(space, found.error_file_id)
    assert found.output_file_id is None
    assert line["response"] == {"status_code": 504, "request_id": "request", "body": {"error": {}}}


async def test_a_batch_that_expires_says_so_of_every_line(kept: Store) -> None:
    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        raise Unavailable("away", retry_after_s=0.01)

    space = kept.space(None)
    batch = added(space, 500)
    [stored] = space.stored()
    stored.batch.expires_at = int(time.time())
    space.put(stored)
    async with running(kept, answer):
        found = await end_of(space, batch)
    assert (found.status, found.expired_at is not None) == ("expired", True)
    lines = answered(space, found.error_file_id)
    assert Counter(each["custom_id"] for each in lines) == {f"id-{i}": 1 for i in range(500)}
    assert found.request_counts.model_dump() == {"total": 500, "completed": 0, "failed": 500}


@pytest.mark.parametrize("status", ["cancelled", "expired"])
async def test_a_batch_ends_without_waiting_for_one_before_it(kept: Store, status: str) -> None:
    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        raise Unavailable("away", retry_after_s=0.01)

    space = kept.space(None)
    names = [added(space, 2).id for _ in range(3)]
    async with running(kept, answer):
        await until(lambda: any(space.batch(name).status == "in_progress" for name in names))
        first = next(name for name in names if space.batch(name).status == "in_progress")
        ending, waiting = (name for name in names if name != first)
        if status == "cancelled":
            space.cancel(ending)
        else:
            stored = next(each for each in space.stored() if each.batch.id == ending)
            stored.batch.expires_at = int(time.time())
            space.put(stored)
        await until(lambda: space.batch(ending).status == status)
    lines = answered(space, space.batch(ending).error_file_id)
    assert [each["custom_id"] for each in lines] == ["id-0", "id-1"]
    assert space.batch(first).status == "in_progress"
    assert space.batch(waiting).status == "validating"


def test_many_cancelled_batches_leave_room_for_other_owners(kept: Store) -> None:
    spaces = kept.space("alice"), kept.space("bob")
    for space in spaces:
        for _ in range(6):
            space.cancel(added(space, 1).id)
    made = Runner(kept, None, lambda: 60.0)  # type: ignore[arg-type] # answers nothing
    assert Counter(space.owner for space, _ in made._due()) == {"alice": 2, "bob": 2}


async def test_a_full_folder_ends_the_batch_with_what_there_is(tmp_path: Path) -> None:
    small = Store(tmp_path / "folder", StoreLimits(20_000, 100, 1_000, 3_600))

    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        return Answered(200, "request", json.dumps("x" * 1_000).encode())

    space = small.space("somebody")
    batch = added(space, 100)
    async with running(small, answer):
        found = await end_of(space, batch)
    assert found.errors
    assert found.errors.data[0].code == "storage_full"
    assert 0 < len(answered(space, found.output_file_id)) < 100


async def test_few_lines_at_a_time_beside_requests_of_others(kept: Store) -> None:
    under_way = 0
    most: Counter[bool] = Counter()
    others = False

    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        nonlocal under_way
        under_way += 1
        most[others] = max(most[others], under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return GOOD

    space = kept.space(None)
    async with running(kept, answer, lambda: 0.0 if others else 60.0):
        await end_of(space, added(space, 64))
        others = True
        await end_of(space, added(space, 4))
    assert most == {False: 32, True: 2}


async def test_one_runner_has_the_folder(kept: Store) -> None:
    asked: Counter[str] = Counter()

    def answering(name: str) -> object:
        async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
            asked[name] += 1
            return GOOD

        return answer

    space = kept.space(None)
    async with running(kept, answering("first")):
        await end_of(space, added(space, 1))
        async with running(Store(kept.folder, LIMITS), answering("second")):
            await end_of(space, added(space, 40))
            assert asked == {"first": 41}
    async with running(kept, answering("third")):
        await end_of(space, added(space, 1))
    assert asked == {"first": 41, "third": 1}


@pytest.mark.parametrize(
    "left", [b'{"custom_id": "id-1", "resp', b"\0" * 50 + b"\n", b"\n", b"\xff"]
)
def test_what_a_kill_left_of_a_line_is_answered_again(
    kept: Store, tmp_path: Path, left: bytes
) -> None:
    given, output, errors = tmp_path / "input", tmp_path / "output", tmp_path / "errors"
    given.write_bytes(content(4))
    output.write_bytes(b'{"custom_id": "id-0"}\n' + left)
    errors.write_bytes(b'{"custom_id": "id-2"}\n')
    counts = RequestCounts(total=4)
    progress = Progress(given, output, errors, "/v1/embeddings", counts)
    found = progress.next(10)
    assert [each.custom_id for each in found] == ["id-1", "id-3"]
    progress.add([(each, GOOD) for each in found])
    progress.close()
    whole = [json.loads(each)["custom_id"] for each in output.read_text().splitlines()]
    assert whole == ["id-0", "id-1", "id-3"]
    assert counts.model_dump() == {"total": 4, "completed": 3, "failed": 1}


def test_what_is_old_or_belongs_to_nothing_is_deleted(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = kept.space("key")
    batch = added(space, 1)
    orphan = space.content("file-" + "0" * 32)
    orphan.write_bytes(b"x")
    (space.folder / "a.new").write_bytes(b"x")
    kept.purge()
    assert len(list(space.folder.iterdir())) == 5  # too young
    later = time.time() + 2 * LIMITS.keep_s
    for path in space.folder.iterdir():
        os.utime(path, (later - 7_200, later - 7_200))
    monkeypatch.setattr(spaces.time, "time", lambda: later)  # type: ignore[attr-defined]
    kept.purge()
    assert [path.name for path in space.folder.iterdir()] == [f"{batch.id}.json"]  # it may yet run
    [stored] = space.stored()
    stored.batch.status = "completed"
    space.put(stored)
    kept.purge()
    assert not list(space.folder.iterdir())


async def test_an_ended_batch_makes_place_once_its_files_are_deleted(tmp_path: Path) -> None:
    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        return GOOD

    kept = Store(tmp_path / "folder", dataclasses.replace(LIMITS, objects=2))
    space = kept.space(None)
    first, second = added(space, 1), added(space, 1)
    async with running(kept, answer):
        await end_of(space, second)
        first = await end_of(space, first)
    for file_id in (first.input_file_id, first.output_file_id or ""):
        with pytest.raises(TooLarge, match="delete all files of one that has ended, or wait"):
            space.add_batch(second.input_file_id, None, None)
        space.delete_file(file_id)
    assert space.batch(first.id).status == "completed"  # it stays while there is place
    third = space.add_batch(second.input_file_id, None, None)
    assert {each.id for each in space.batches(None)} == {second.id, third.id}
    space.delete_file(second.input_file_id)  # the third has not ended
    with pytest.raises(TooLarge):
        space.add_batch(space.add_file(content(1), "input", None).id, None, None)


def test_a_file_of_others_making_is_left_out(kept: Store) -> None:
    space = kept.space(None)
    file = space.add_file(b"{}", "name", None)
    (space.folder / f"{spaces.new_file_id()}.json").write_text("{}")
    assert space.files() == [file]


async def test_a_folder_that_was_away_for_a_while_is_read_again(
    kept: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        return GOOD

    space = kept.space(None)
    batch = added(space, 1)
    monkeypatch.setattr(runner, "LONGEST_PAUSE_S", 0.01)
    away = kept.folder.rename(kept.folder.with_name("away"))
    async with running(kept, answer):
        await until(lambda: "cannot be used" in caplog.text)
        away.rename(kept.folder)
        await end_of(space, batch)
        away = kept.folder.rename(away)
        caplog.clear()
        await until(lambda: "cannot be used" in caplog.text)
        away.rename(kept.folder)
        await end_of(space, added(space, 1))


async def test_a_batch_whose_end_cannot_be_written_waits_and_is_tried_again(
    kept: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        raise Unauthenticated("the key is gone")

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    space = kept.space("key")
    batch = added(space, 1)
    [stored] = space.stored()
    stored.batch.status = "in_progress"
    space.put(stored)
    monkeypatch.setattr(runner, "LONGEST_PAUSE_S", 0.01)
    with monkeypatch.context() as disk:
        disk.setattr(spaces, "write", full)
        async with running(kept, answer):
            await until(lambda: "it is tried again" in caplog.text)
            disk.undo()
            found = await end_of(space, batch)
    assert found.status == "failed"


async def test_ids_of_batches_that_are_gone_are_forgotten(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        return GOOD

    monkeypatch.setattr(runner, "PURGE_S", 0.0)
    monkeypatch.setattr(runner, "LOOK_S", 0.01)
    space = kept.space(None)
    batch = added(space, 1)
    made = Runner(kept, answer, lambda: 60.0)
    task = asyncio.create_task(made.run())
    try:
        await end_of(space, batch)
        await until(lambda: batch.id in made._over)
        (space.folder / f"{batch.id}.json").unlink()
        await until(lambda: not made._over)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_line_that_once_passed_the_check_fails_the_batch(kept: Store) -> None:
    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        return GOOD

    space = kept.space(None)
    file = space.add_file(content(1) + b"{}\n", "input", None)
    space.add_batch(file.id, None, None)
    [stored] = space.stored()
    stored.batch.status = "in_progress"
    space.put(stored)
    async with running(kept, answer):
        found = await end_of(space, stored.batch)
    assert found.errors
    assert found.errors.data[0].code == "missing_required_parameter"


async def test_a_batch_that_ended_is_read_no_more(
    kept: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        return GOOD

    space = kept.space(None)
    batch = added(space, 1)
    async with running(kept, answer):
        await end_of(space, batch)
        await end_of(space, added(space, 1))  # which is found by a look after that end
        (space.folder / f"{batch.id}.json").write_text("{")
        await end_of(space, added(space, 1))
    assert not [
        each for each in caplog.records if batch.id in each.message and each.levelname == "ERROR"
    ]


def test_a_list_reads_only_what_it_shows(kept: Store, caplog: pytest.LogCaptureFixture) -> None:
    space = kept.space(None)
    oldest, *others = (added(space, 1) for _ in range(3))
    (space.folder / f"{oldest.id}.json").write_text("{")
    assert next(space.batches(None)) == others[1]
    assert next(space.batches(others[0].id)) == others[0]
    assert not list(space.batches("batch_" + "0" * 32))
    assert not caplog.records
    assert list(space.batches(None)) == others[::-1]


def test_a_full_disk_is_no_fault_of_the_client(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = kept.space(None)
    batch = added(space, 1)
    there, write = set(space.folder.iterdir()), documents.write

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(spaces, "write", full)
    with pytest.raises(Unavailable, match="No space left"):
        space.add_file(b"{}", "name", None)
    with pytest.raises(Unavailable, match="No space left"):
        space.add_batch(batch.input_file_id, None, None)
    assert set(space.folder.iterdir()) == there


def test_a_long_line_costs_no_more_than_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"x" * (3 * lines.LINE_BYTES) + b"\n" + content(1))
    total, errors = lines.check(path, "/v1/embeddings", 10)
    assert (total, [(each.code, each.line) for each in errors]) == (2, [("line_too_long", 1)])


def test_blank_lines_count_and_what_follows_many_blanks_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"\n" * 10 + content(1))
    assert lines.check(path, "/v1/embeddings", 11) == (1, [])
    _, [error] = lines.check(path, "/v1/embeddings", 10)
    assert error.code == "too_many_tasks"
    path.write_bytes(b" " * lines.LINE_BYTES + b"  " + content(1))
    _, [error] = lines.check(path, "/v1/embeddings", 10)
    assert (error.code, error.line) == ("line_too_long", 1)


def test_long_ids_take_little_memory(tmp_path: Path) -> None:
    path, count, long = tmp_path / "input", 5_000, "\U0001f600" * (lines.ID_CHARACTERS - 4)
    each = {"method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}
    with path.open("wb") as file:
        for number in range(count):
            file.write(orjson.dumps({"custom_id": f"{number:04}{long}"} | each) + b"\n")
    tracemalloc.start()
    try:
        assert lines.check(path, "/v1/embeddings", count) == (count, [])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < count * 500  # the ids take 2 KiB each


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="GATEWAY_BATCH_DIR"):
        Store(tmp_path / "file", LIMITS)
