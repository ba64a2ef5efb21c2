"""Embeds partitions over one stream, and writes each after its last result."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.manifests import Failure, Head, Manifest, Manifests, Settings, head_of
from openclip_triton.bulk.outputs.layouts import Layout, Part, Row
from openclip_triton.bulk.samples import IMAGES, TEXTS, Kind, Partition, Problem, Sample, problem_of
from openclip_triton.client import Client
from openclip_triton.errors import ClientError, UnreadableFile
from openclip_triton.values import Content, Result, StreamSettings, Vector

# Several messages are in flight at any time; memory stays below 100 MB.
SETTINGS = StreamSettings(max_items=512, max_bytes=32 * 2**20)
PUBLISHING = 2  # finished partitions that wait for the disk or the object store


@dataclass(frozen=True, slots=True)
class Task:
    """A partition to embed."""

    name: str  # its number, as in the names of its files
    partition: Partition
    kinds: tuple[Kind, ...]  # the halves to make
    standing: Kind | None  # the other half, if it is there: rows follow it


@dataclass(frozen=True, slots=True)
class Done:
    """A partition that was written."""

    task: Task
    heads: dict[Kind, Head]


@dataclass(slots=True)
class _Open:
    """A partition whose samples are being embedded."""

    task: Task
    part: Part
    manifest: Manifest  # of each half
    dropped: frozenset[int]  # positions without a row in the standing half
    items: int | None  # of the standing half


@dataclass(slots=True)
class _Item:
    shard: _Open
    position: int
    key: str
    text: str | None
    metadata: str | None
    awaited: int = 0  # results to come
    problem: Problem | None = None
    vectors: dict[str, Vector] = field(default_factory=dict)  # by the kind's noun
    truncated: bool = False


_Half = tuple[_Item, Kind]  # names a result


class Runner(Protocol):
    """Embeds partitions: in this process, or on a cluster."""

    published: int  # partitions

    def run(
        self, tasks: Iterable[Task], advance: Callable[[bool], None]
    ) -> Generator[Done, None, None]:
        """Embed partitions; yield each once it is written."""


class Embedder:
    """Embeds partitions with one client."""

    def __init__(self, client: Client, layout: Layout, settings: Settings) -> None:
        self._client = client
        self._layout = layout
        self._settings = settings
        self._manifests = Manifests(layout.root)
        self.published = 0  # partitions
        self._opened: list[_Open] = []  # begun, and neither published nor discarded
        self._queue: deque[_Item | _Open] = deque()  # samples read; after its last, the partition
        self._publishing: deque[Future[Done]] = deque()
        self._lost: Exception | None = None  # the error that ended the input early

    def run(
        self, tasks: Iterable[Task], advance: Callable[[bool], None]
    ) -> Generator[Done, None, None]:
        """Embed partitions, in order; yield each once it is written.

        Args:
            tasks: The partitions; read ahead of the results, in another thread.
            advance: Called after each sample, with whether it failed.

        Raises:
            JobError: A partition does not fit the half that is there.
            ClientError: The service cannot be reached, or refuses the job.
            OSError: The input cannot be read on, or the output cannot be written.
        """
        results = self._client.stream(
            self._items(tasks),
            model=self._settings.model,
            dimensions=self._settings.dimensions,
            truncate=self._settings.truncate,
            fingerprint=self._settings.fingerprint,
            ordered=True,
            settings=SETTINGS,
        )
        with ThreadPoolExecutor(1, thread_name_prefix="openclip-publish") as pool:
            try:
                with closing(results):
                    for result in results:
                        _take(result)
                        yield from self._settle(pool, advance)
                yield from self._settle(pool, advance)
                while self._publishing:
                    yield self._publishing.popleft().result()
                if self._lost is not None:
                    raise self._lost
            finally:
                pool.shutdown(wait=True)
                for shard in self._opened:
                    shard.part.discard()

    def _items(self, tasks: Iterable[Task]) -> Iterator[tuple[_Half, Content]]:
        """Read the samples of all partitions; runs in the stream's threads.

        An error ends the input, and is raised when the partitions before it are written.
        """
        try:
            yield from self._read(tasks)
        except Exception as error:
            self._lost = error

    def _read(self, tasks: Iterable[Task]) -> Iterator[tuple[_Half, Content]]:
        for task in tasks:
            shard = self._open(task)
            position = -1
            for position, sample in enumerate(_samples(task.partition)):
                item, contents = _item_of(shard, position, sample)
                self._queue.append(item)
                for kind, content in contents:
                    yield (item, kind), content
            shard.manifest.items = position + 1
            self._queue.append(shard)

    def _open(self, task: Task) -> _Open:
        partition = task.partition
        dropped: frozenset[int] = frozenset()
        items = None
        if task.standing:
            other = self._manifests.read(task.standing, task.name)
            dropped, items = frozenset(other.dropped), other.items
        for kind in task.kinds:
            self._manifests.remove(kind, task.name)
        joins = task.standing is not None
        part = self._layout.part(task.name, task.kinds, self._settings, join=joins)
        manifest = Manifest(partition.source, partition.version, self._settings)
        manifest.dropped = sorted(dropped)
        shard = _Open(task, part, manifest, dropped, items)
        self._opened.append(shard)
        return shard

    def _settle(self, pool: ThreadPoolExecutor, advance: Callable[[bool], None]) -> Iterator[Done]:
        """Write the samples that await no result, up to the first that does."""
        while self._queue:
            first = self._queue[0]
            if isinstance(first, _Item) and first.awaited:
                return
            self._queue.popleft()
            if isinstance(first, _Item):
                self._write(first, advance)
                continue
            self._publishing.append(pool.submit(self._publish, first))
            while len(self._publishing) > PUBLISHING or (
                self._publishing and self._publishing[0].done()
            ):
                yield self._publishing.popleft().result()

    def _write(self, item: _Item, advance: Callable[[bool], None]) -> None:
        """Add the row of a sample, or record the reason for its absence."""
        shard, manifest, problem = item.shard, item.shard.manifest, item.problem
        if item.position in shard.dropped:  # the standing half's manifest says why it has no row
            advance(False)
            return
        if problem is None:
            manifest.truncated += item.truncated
            row = Row(item.key, item.text, item.metadata, item.vectors)
        else:
            manifest.failures.append(
                Failure(item.position, item.key, problem.code, problem.reason, problem.retry)
            )
            row = Row(item.key, None, item.metadata, {})
        if problem is not None and shard.task.standing is None:
            manifest.dropped.append(item.position)
        else:
            shard.part.write(row)
            manifest.rows += 1
        advance(problem is not None)

    def _publish(self, shard: _Open) -> Done:
        task, manifest = shard.task, shard.manifest
        if shard.items is not None and shard.items != manifest.items:
            other = task.standing
            raise JobError(
                f"{manifest.source} has {manifest.items:,} samples, but partition {task.name} of "
                f"{self._layout.root} has {other.noun if other else ''}s of {shard.items:,}: they "
                "do not line up; name another output, or embed both again with embed-pairs "
                "--overwrite"
            )
        shard.part.publish()
        for kind in task.kinds:
            self._manifests.write(kind, task.name, manifest)
        self._opened.remove(shard)
        self.published += 1
        return Done(task, dict.fromkeys(task.kinds, head_of(manifest)))


def embed_alone(
    connect: Callable[[], Client], layout: Layout, settings: Settings, task: Task
) -> dict[Kind, Head]:
    """Embed and write one partition with its own client, in any process, as `Embedder.run` does."""
    with connect() as client:
        [done] = Embedder(client, layout, settings).run([task], lambda _: None)
    return done.heads


def _item_of(
    shard: _Open, position: int, sample: Sample
) -> tuple[_Item, list[tuple[Kind, Content]]]:
    """Pair a sample with the items to send: none if it has no row."""
    item = _Item(shard, position, sample.key, sample.text, sample.metadata)
    item.problem = sample.problem or problem_of(sample.key)
    if item.problem is not None or position in shard.dropped:
        return item, []
    contents: list[tuple[Kind, Content]] = []
    for kind in shard.task.kinds:
        if kind == IMAGES and isinstance(sample.image, bytes | Path):
            contents.append((kind, sample.image))
        elif kind == TEXTS and sample.text is not None:
            contents.append((kind, sample.text))
    item.awaited = len(contents)
    return item, contents


def _take(result: Result[_Half]) -> None:
    item, kind = result.id
    item.awaited -= 1
    item.truncated |= result.truncated
    if result.vector is not None:
        item.vectors[kind.noun] = result.vector
    elif result.error is not None and item.problem is None:
        item.problem = _problem_of(result.error, item.key)


def _samples(partition: Partition) -> Iterator[Sample]:
    try:
        yield from partition.samples()
    except (OSError, JobError, GeneratorExit):
        raise
    except Exception as error:  # of any library that reads a file or a URL
        raise OSError(f"{partition.source}: {error}") from error


def _problem_of(error: ClientError, key: str) -> Problem:
    reason = error.message.removeprefix(f"{key}: ")
    unreadable = isinstance(error, UnreadableFile)
    return Problem(error.code, reason, error.retryable or unreadable)
