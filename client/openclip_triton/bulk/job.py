"""A job from inputs to an output; it skips partitions that are done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice

from openclip_triton.bulk import storage
from openclip_triton.bulk.display import Display, counted
from openclip_triton.bulk.errors import JobError, Stopped
from openclip_triton.bulk.inputs.catalog import Inputs, partitions
from openclip_triton.bulk.manifests import Failure, Head, Manifests, Settings
from openclip_triton.bulk.outputs.layouts import Layout
from openclip_triton.bulk.outputs.output import Output
from openclip_triton.bulk.samples import KINDS, TEXTS, Input, Kind
from openclip_triton.bulk.shards import Embedder, Runner, Task
from openclip_triton.client import Client
from openclip_triton.errors import ClientError
from openclip_triton.values import Space

SHOWN_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Job:
    """What to embed, with which options, and into which output."""

    inputs: Inputs
    output: Output
    model: str = ""
    dimensions: int | None = None
    truncate: bool | None = None
    overwrite: bool = False
    allow_failures: bool = False

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The halves to embed."""
        return self.inputs.kinds

    @property
    def remote(self) -> bool:
        """Whether inputs and output are all below URLs."""
        return all(map(storage.is_url, (*self.inputs.paths, self.output.path)))

    @property
    def noun(self) -> str:
        """What a sample is called."""
        return self.kinds[0].noun if len(self.kinds) == 1 else "pair"


@dataclass(frozen=True, slots=True)
class Counts:
    """Number of samples by outcome."""

    done: int = 0  # with a row
    failed: int = 0
    left_out: int = 0  # the other half has no row for them
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """Result of a run."""

    space: Space
    counts: Counts
    passed_over: int  # files of another extension
    failures: tuple[str, ...]  # the first few, as lines


@dataclass(frozen=True, slots=True)
class _Source:
    """A partition, without its samples."""

    source: str
    version: str
    count: int | None


class _Plan:
    """The partitions of a job, and what is there of them already."""

    def __init__(self, job: Job, found: Sequence[_Source], space: Space) -> None:
        self.found = found
        self._job = job
        self._layout = job.output.layout
        self.manifests = Manifests(self._layout.root)
        self.settings = Settings(
            space.model,
            space.fingerprint,
            space.dimensions,
            self._layout.dtype,
            job.truncate is not False,
            job.inputs.metadata,
        )
        self.heads = {kind: self.manifests.heads(kind) for kind in KINDS}
        there = [name for heads in self.heads.values() for name in heads]
        width = min(map(len, there), default=len(str(len(found))))
        self.names = [str(number).zfill(width) for number in range(len(found))]

    def check(self) -> None:
        """Refuse to mix vectors of different inputs, models or options.

        Raises:
            JobError: They differ from those of an earlier run.
        """
        for kind, heads in self.heads.items():
            ours = kind in self._job.kinds
            if ours and self._job.overwrite:
                continue
            if heads and not ours and not self._layout.joins:
                raise JobError(
                    f"{self._job.output.path} holds {kind.noun}s; only a folder in the layout of "
                    "clip-retrieval takes the other half later; name another output"
                )
            for name, head in heads.items():
                self._agree(kind, head)
                number = int(name)
                if number >= len(self.found):
                    raise JobError(
                        f"{self._job.output.path} holds {len(heads):,} partitions of {kind.noun}s, "
                        f"the input has {len(self.found):,}; {self._way_out()}"
                    )
                now = self.found[number].source
                if ours and head.source != now:
                    raise JobError(
                        f"{self._job.output.path} holds {kind.noun}s of {head.source}, not of "
                        f"{now}; {self._way_out()}"
                    )

    def _agree(self, kind: Kind, head: Head) -> None:
        was, now = asdict(head.settings), asdict(self.settings)
        if kind in self._job.kinds:
            compared = ["model", "fingerprint", "dimensions", "dtype", "metadata"]
            compared += ["truncate"] if kind == TEXTS else []
        elif self._job.overwrite:
            return  # a new model: the other half is made anew after this one
        else:
            compared = ["model", "fingerprint", "dimensions"]
        differences = [f"{n} was {was[n]}, now {now[n]}" for n in compared if was[n] != now[n]]
        if differences:
            raise JobError(
                f"{self._job.output.path} holds {kind.noun}s of another run: "
                f"{'; '.join(differences)}; {self._way_out()}"
            )

    def _way_out(self) -> str:
        nouns = " and ".join(f"{kind.noun}s" for kind in self._job.kinds)
        return f"name another output, or give --overwrite to replace its {nouns}"

    def forget(self) -> list[str]:
        """Mark the job's halves as not done; say what is replaced, and what no longer fits."""
        replaced: list[str] = []
        for kind in self._job.kinds:
            for name in self.heads[kind]:
                self.manifests.remove(kind, name)
            self.heads[kind] = {}
            names = self._layout.parts(kind)
            replaced += [file for name in names for file in self._layout.files(name, kind)]
        replaced = list(dict.fromkeys(replaced))
        notes = []
        if replaced:
            more = counted(len(replaced) - 2, "more file")
            named = ", ".join(replaced[:2])
            notes.append(f"replacing {named}{f' and {more}' if len(replaced) > 2 else ''}")
        for kind in set(KINDS) - set(self._job.kinds):
            models = {head.settings.fingerprint for head in self.heads[kind].values()}
            if models - {self.settings.fingerprint}:
                notes.append(
                    f"the {kind.noun}s there are of another model: they cannot be compared with "
                    "the new vectors until they are made anew"
                )
        return notes

    def missing(self, number: int) -> tuple[Kind, ...]:
        """List the halves of a partition that are to be made."""
        found, name = self.found[number], self.names[number]
        return tuple(
            kind
            for kind in self._job.kinds
            if (head := self.heads[kind].get(name)) is None
            or head.version != found.version
            or head.retry
        )

    def tasks(self, inputs: Sequence[Input]) -> Iterator[Task]:
        """Cut the inputs again; yield what is to be made."""
        for number, partition in enumerate(partitions(inputs)):
            if number >= len(self.found):
                break  # the input grew meanwhile: the next run sees it
            if kinds := self.missing(number):
                name = self.names[number]
                standing = [k for k in KINDS if k not in kinds and name in self.heads[k]]
                yield Task(name, partition, kinds, next(iter(standing), None))

    def done(self) -> list[int]:
        """List the partitions that need nothing."""
        return [number for number in range(len(self.found)) if not self.missing(number)]

    def drop_surplus(self) -> None:
        """Remove the files of partitions that the input no longer has."""
        files = storage.storage_of(self._layout.root)
        for kind in self._job.kinds:
            for name in set(self._layout.parts(kind)) - set(self.names):
                for file in self._layout.files(name, kind):
                    files.remove(file)


def run(
    job: Job,
    client: Client,
    display: Display,
    runner_of: Callable[[Layout, Settings], Runner] | None = None,
) -> Summary:
    """Embed what is not done yet, and write the output.

    Args:
        job: What to embed.
        client: The service; every partition is embedded with it unless `runner_of` is given.
        display: Shows the progress.
        runner_of: Makes what embeds the partitions elsewhere.

    Raises:
        JobError: The output belongs to another job, or there is nothing to embed.
        ClientError: The service cannot be reached, or refuses the whole job.
        Stopped: Ctrl-C, the service was lost, the disk is full.
        OSError: The input cannot be read.
    """
    space = client.space(model=job.model, dimensions=job.dimensions)
    inputs = job.inputs.open()
    found = [_Source(p.source, p.version, p.count) for p in partitions(inputs)]
    passed_over = sum(one.passed_over for one in inputs)
    if not found:
        other = f"; {counted(passed_over, 'file')} passed over for another extension"
        raise JobError(f"no {job.noun}s found{other if passed_over else ''}")
    with job.output.begun(job.kinds, overwrite=job.overwrite):
        plan = _Plan(job, found, space)
        plan.check()
        if job.overwrite:
            for line in plan.forget():
                display.note(line)
        runner = (runner_of or partial(Embedder, client))(job.output.layout, plan.settings)
        _embed(job, plan, inputs, runner, display)
        plan.drop_surplus()
        return _finish(job, plan, space, passed_over)


def _embed(
    job: Job, plan: _Plan, inputs: Sequence[Input], runner: Runner, display: Display
) -> None:
    done = plan.done()
    first = job.kinds[0]
    already = sum(plan.heads[first][plan.names[number]].items for number in done)
    counts = [source.count for source in plan.found]
    total = None if None in counts else sum(filter(None, counts))
    display.start(total, already, len(plan.found), len(done))
    written = runner.run(plan.tasks(inputs), display.advance)
    try:
        with display, closing(written):
            for shard in written:
                for kind, head in shard.heads.items():
                    plan.heads[kind][shard.task.name] = head
                display.partition()
    except (KeyboardInterrupt, ClientError, OSError) as error:
        raise Stopped(error, len(done) + runner.published, len(plan.found)) from error


def _finish(job: Job, plan: _Plan, space: Space, passed_over: int) -> Summary:
    heads = [[plan.heads[kind][name] for name in plan.names] for kind in job.kinds]
    # Both halves of pairs have the same failures, unless one was there before.
    most = max(heads, key=lambda half: sum(head.failed for head in half))
    kind = job.kinds[heads.index(most)]
    failed = sum(head.failed for head in most)
    counts = Counts(
        done=sum(head.rows for head in most),
        failed=failed,
        left_out=sum(head.left_out for head in most),
        truncated=max(sum(head.truncated for head in half) for half in heads),
    )
    names = [name for name, head in zip(plan.names, most, strict=True) if head.failed]
    shown = tuple(islice(_lines(plan, kind, names), SHOWN_FAILURES))
    if failed:
        job.output.list_failures(_lines(plan, kind, names))
    else:
        storage.storage_of(job.output.failed).remove(job.output.failed)
    keep = bool(failed) and not job.allow_failures
    job.output.finish(plan.names, job.kinds, space, keep=keep)
    return Summary(space, counts, passed_over, shown)


def _lines(plan: _Plan, kind: Kind, names: list[str]) -> Iterator[str]:
    for source, failure in plan.manifests.failures(kind, names):
        yield describe(source, failure)


def describe(source: str, failure: Failure) -> str:
    """Format a failure as one line: key, tab, code and reason."""
    key = failure.key.replace("\r", "\\r").replace("\n", "\\n")
    return f"{key}\t{failure.code}: {' '.join(failure.reason.split())}"
