"""A job from inputs to an output; it skips partitions that are done."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice

from openclip_triton.bulk import storage
from openclip_triton.bulk.display import Display, counted
from openclip_triton.bulk.errors import JobError, Stopped
from openclip_triton.bulk.inputs.catalog import Inputs, partitions
from openclip_triton.bulk.manifests import Failure, Settings
from openclip_triton.bulk.outputs.layouts import Layout
from openclip_triton.bulk.outputs.output import Output
from openclip_triton.bulk.plan import Plan
from openclip_triton.bulk.samples import Input, Kind, Source
from openclip_triton.bulk.shards import Embedder, Runner
from openclip_triton.client import Client
from openclip_triton.errors import ClientError
from openclip_triton.values import Space

SHOWN_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Job:
    """Inputs, options and output of a job."""

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
class Summary:
    """Result of a run, with the number of samples by outcome."""

    space: Space
    done: int  # with a row
    failed: int
    left_out: int  # the other half has no row for them
    truncated: int
    passed_over: int  # files of another extension
    failures: tuple[str, ...]  # the first few, as lines


def run(
    job: Job,
    client: Client,
    display: Display,
    runner_of: Callable[[Layout, Settings], Runner] | None = None,
) -> Summary:
    """Embed the unfinished partitions, and write the output.

    Without `runner_of`, which makes a runner, the client embeds the partitions in this process.

    Raises:
        JobError: The output belongs to another job, or there is nothing to embed.
        ClientError: The service cannot be reached, or refuses the whole job.
        Stopped: Ctrl-C, the service was lost, the disk is full.
        OSError: The input cannot be read.
    """
    space = client.space(model=job.model, dimensions=job.dimensions)
    inputs = job.inputs.open()
    found = [Source(p.source, p.version, p.count) for p in partitions(inputs)]
    passed_over = sum(one.passed_over for one in inputs)
    if not found:
        other = f"; {counted(passed_over, 'file')} passed over for another extension"
        raise JobError(f"no {job.noun}s found{other if passed_over else ''}")
    with job.output.begun(job.kinds, overwrite=job.overwrite):
        settings = Settings(
            **asdict(space),
            dtype=job.output.layout.dtype,
            truncate=job.truncate is not False,
            metadata=job.inputs.metadata,
        )
        plan = Plan(job.output, job.kinds, settings, found, overwrite=job.overwrite)
        plan.check()
        if job.overwrite:
            for line in plan.forget():
                display.note(line)
        runner = (runner_of or partial(Embedder, client))(job.output.layout, settings)
        _embed(job, plan, inputs, runner, display)
        plan.drop_surplus()
        return _finish(job, plan, space, passed_over)


def _embed(job: Job, plan: Plan, inputs: Sequence[Input], runner: Runner, display: Display) -> None:
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


def _finish(job: Job, plan: Plan, space: Space, passed_over: int) -> Summary:
    heads = [[plan.heads[kind][name] for name in plan.names] for kind in job.kinds]
    # Both halves of pairs have the same failures, unless one was there before.
    most = max(heads, key=lambda half: sum(head.failed for head in half))
    kind = job.kinds[heads.index(most)]
    failed = sum(head.failed for head in most)
    names = [name for name, head in zip(plan.names, most, strict=True) if head.failed]
    if failed:
        job.output.list_failures(map(_line, plan.manifests.failures(kind, names)))
    else:
        storage.remove(job.output.failed)
    shown = tuple(map(_line, islice(plan.manifests.failures(kind, names), SHOWN_FAILURES)))
    keep = bool(failed) and not job.allow_failures
    job.output.finish(plan.names, job.kinds, space, keep=keep)
    return Summary(
        space,
        done=sum(head.rows for head in most),
        failed=failed,
        left_out=sum(head.left_out for head in most),
        truncated=max(sum(head.truncated for head in half) for half in heads),
        passed_over=passed_over,
        failures=shown,
    )


def _line(failure: Failure) -> str:
    """Format a failure as one line: key, tab, code and reason."""
    key = failure.key.replace("\r", "\\r").replace("\n", "\\n")
    return f"{key}\t{failure.code}: {' '.join(failure.reason.split())}"
