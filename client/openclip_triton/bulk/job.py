"""A run from a listing to an output; it skips entries done before and lists failures."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from openclip_triton.bulk.display import Display
from openclip_triton.bulk.errors import JobError, Stopped
from openclip_triton.bulk.layouts import IMAGES, Kind, Layout, Table
from openclip_triton.bulk.listing import Entry, Listing
from openclip_triton.bulk.store import Counts, Failure, Outcome, Store, discard, forget
from openclip_triton.client import Client
from openclip_triton.errors import ClientError
from openclip_triton.values import Content, Result, Space

SHOWN_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Job:
    """What to embed, with which options, and into which output."""

    kind: Kind
    listing: Listing
    output: Path
    layout: Layout
    model: str = ""
    dimensions: int | None = None
    truncate: bool | None = None
    overwrite: bool = False
    allow_failures: bool = False

    @property
    def progress(self) -> Path:
        """File of the kept progress."""
        return self.output.with_name(self.output.name + ".progress")

    @property
    def failed(self) -> Path:
        """File that lists the failures."""
        return self.output.with_name(self.output.name + ".failed.txt")


@dataclass(frozen=True, slots=True)
class Summary:
    """Result of a run."""

    space: Space
    counts: Counts
    failures: tuple[Failure, ...]  # the first few


def run(job: Job, client: Client, display: Display) -> Summary:
    """Embed what is not done yet, and write the output.

    Raises:
        JobError: The output exists already, or there is nothing to embed.
        StoreError: The kept progress belongs to another run, or is in use.
        ClientError: The service cannot be reached, or refuses the whole run.
        Stopped: Ctrl-C, or the service was lost.
        OSError: The disk is full, or the output cannot be written.
    """
    if job.overwrite:
        forget(job.progress)
    elif job.layout.exists() and not job.progress.exists():
        raise JobError(f"{job.output} exists already; give --overwrite to replace it")
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise JobError(f"{job.output.parent} is not a folder") from error
    space = client.space(model=job.model, dimensions=job.dimensions)
    with closing(Store(job.progress)) as store:
        try:
            _plan(job, store, space)
            _embed(job, store, client, space, display)
            summary = _write(job, store, space)
        except (KeyboardInterrupt, ClientError) as error:
            raise Stopped(error, store.counts()) from error
        except JobError:
            if store.is_empty():
                discard(job.progress)
            raise
    if not summary.counts.failed or job.allow_failures:
        discard(job.progress)
    return summary


def _plan(job: Job, store: Store, space: Space) -> None:
    store.agree(
        {
            "kind": job.kind.noun,
            "model": space.model,
            "fingerprint": space.fingerprint,
            "dimensions": str(space.dimensions),
            "truncate": str(job.truncate is not False).lower(),
        }
    )
    store.plan(job.listing.entries, once=job.kind is IMAGES)
    for path, reason in job.listing.problems.items():
        outcome = Outcome(None, code="unreadable_file", reason=reason, again=True)
        store.record(Entry(path, ""), outcome)
    store.save()
    if not store.counts().total:
        passed = job.listing.passed_over
        other = f"; {counted(passed, 'file')} passed over for another extension" if passed else ""
        raise JobError(f"no {job.kind.noun}s found{other}")


def _embed(job: Job, store: Store, client: Client, space: Space, display: Display) -> None:
    total = store.counts().total
    display.start(total, total - store.count_pending())
    results = client.stream(
        _items(job, store),
        model=space.model,
        dimensions=job.dimensions,
        truncate=job.truncate,
        fingerprint=space.fingerprint,
    )
    with closing(results), display:
        for result in results:
            store.record(result.id, _outcome(result))
            display.advance(failed=result.error is not None)


def _items(job: Job, store: Store) -> Iterator[tuple[Entry, Content]]:
    for entry in store.pending():
        yield entry, Path(entry.key) if job.kind is IMAGES else entry.key


def _outcome(result: Result[Entry]) -> Outcome:
    error = result.error
    if error is None:
        return Outcome(result.vector, result.truncated)
    again = error.retryable or error.code == "unreadable_file"
    return Outcome(None, code=error.code, reason=error.message, again=again)


def _write(job: Job, store: Store, space: Space) -> Summary:
    counts = store.counts()
    about = {"model": space.model, "fingerprint": space.fingerprint}
    job.layout.write(Table(store.rows(), counts.done, space.dimensions, about))
    if counts.failed:
        fresh = job.failed.with_name(job.failed.name + ".new")
        with fresh.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{describe(job.kind, failure)}\n" for failure in store.failures())
        fresh.replace(job.failed)
    else:
        job.failed.unlink(missing_ok=True)
    return Summary(space, counts, tuple(islice(store.failures(), SHOWN_FAILURES)))


def counted(count: int, noun: str) -> str:
    """Format a count: `1 image`, `2,000 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def describe(kind: Kind, failure: Failure) -> str:
    """Format a failure as one line: entry, tab, code and reason."""
    if kind is IMAGES:
        what = failure.key.replace("\r", "\\r").replace("\n", "\\n")
    else:
        shown = failure.key if len(failure.key) <= 60 else failure.key[:57] + "..."
        what = f"line {failure.position + 1}: {shown!r}"
    reason = " ".join(failure.reason.split())
    return f"{what}\t{failure.code}: {reason}"
