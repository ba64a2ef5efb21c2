"""The plan of a job: the partitions of its inputs, and those already in the output."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from openclip_triton.bulk import storage
from openclip_triton.bulk.display import counted
from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.inputs.catalog import partitions
from openclip_triton.bulk.manifests import Head, Manifests, Settings
from openclip_triton.bulk.outputs.output import Output
from openclip_triton.bulk.samples import KINDS, TEXTS, Input, Kind, Source
from openclip_triton.bulk.shards import Task


@dataclass
class Plan:
    """The partitions of a job, and which of them are done."""

    output: Output
    kinds: Sequence[Kind]  # the halves to embed
    settings: Settings  # of this run
    found: Sequence[Source]  # the partitions of the inputs
    overwrite: bool  # whether to remake finished partitions

    def __post_init__(self) -> None:
        self.manifests = Manifests(self.output.layout.root)
        self.heads = {kind: self.manifests.heads(kind) for kind in KINDS}
        there = [name for heads in self.heads.values() for name in heads]
        width = min(map(len, there), default=len(str(len(self.found))))
        self.names = [str(number).zfill(width) for number in range(len(self.found))]

    def check(self) -> None:
        """Refuse to mix vectors of different inputs, models or options.

        Raises:
            JobError: They differ from those of an earlier run.
        """
        for kind, heads in self.heads.items():
            ours = kind in self.kinds
            if ours and self.overwrite:
                continue
            if heads and not ours and not self.output.layout.joins:
                raise JobError(
                    f"{self.output.path} holds {kind.noun}s; only a folder in the layout of "
                    "clip-retrieval takes the other half later; name another output"
                )
            for name, head in heads.items():
                self._agree(kind, head)
                number = int(name)
                if number >= len(self.found):
                    raise JobError(
                        f"{self.output.path} holds {len(heads):,} partitions of {kind.noun}s, "
                        f"the input has {len(self.found):,}; {self._way_out()}"
                    )
                now = self.found[number].source
                if ours and head.source != now:
                    raise JobError(
                        f"{self.output.path} holds {kind.noun}s of {head.source}, not of "
                        f"{now}; {self._way_out()}"
                    )

    def _agree(self, kind: Kind, head: Head) -> None:
        was, now = asdict(head.settings), asdict(self.settings)
        if kind in self.kinds:
            compared = ["model", "fingerprint", "dimensions", "dtype", "metadata"]
            compared += ["truncate"] if kind == TEXTS else []
        elif self.overwrite:
            return  # a new model: the other half is remade after this one
        else:
            compared = ["model", "fingerprint", "dimensions"]
        differences = [f"{n} was {was[n]}, now {now[n]}" for n in compared if was[n] != now[n]]
        if differences:
            raise JobError(
                f"{self.output.path} holds {kind.noun}s of another run: "
                f"{'; '.join(differences)}; {self._way_out()}"
            )

    def _way_out(self) -> str:
        nouns = " and ".join(f"{kind.noun}s" for kind in self.kinds)
        return f"name another output, or give --overwrite to replace its {nouns}"

    def forget(self) -> list[str]:
        """Mark the job's halves as unfinished; report replaced and no longer matching parts."""
        replaced: list[str] = []
        for kind in self.kinds:
            for name in self.heads[kind]:
                self.manifests.remove(kind, name)
            self.heads[kind] = {}
            replaced += self.output.layout.files(self.output.layout.parts(kind), kind)
        replaced = list(dict.fromkeys(replaced))
        notes = []
        if replaced:
            more = counted(len(replaced) - 2, "more file")
            named = ", ".join(replaced[:2])
            notes.append(f"replacing {named}{f' and {more}' if len(replaced) > 2 else ''}")
        for kind in set(KINDS) - set(self.kinds):
            models = {head.settings.fingerprint for head in self.heads[kind].values()}
            if models - {self.settings.fingerprint}:
                notes.append(
                    f"the {kind.noun}s there are from another model: they cannot be compared with "
                    "the new vectors until they are embedded again"
                )
        return notes

    def missing(self, number: int) -> tuple[Kind, ...]:
        """List the unfinished halves of a partition."""
        found, name = self.found[number], self.names[number]
        return tuple(
            kind
            for kind in self.kinds
            if (head := self.heads[kind].get(name)) is None
            or head.version != found.version
            or head.retry
        )

    def tasks(self, inputs: Sequence[Input]) -> Iterator[Task]:
        """Cut the inputs again; yield the unfinished partitions."""
        for number, partition in enumerate(partitions(inputs)):
            if number >= len(self.found):
                break  # the input grew meanwhile: the next run sees it
            if kinds := self.missing(number):
                name = self.names[number]
                standing = [k for k in KINDS if k not in kinds and name in self.heads[k]]
                yield Task(name, partition, kinds, next(iter(standing), None))

    def done(self) -> list[int]:
        """List the finished partitions."""
        return [number for number in range(len(self.found)) if not self.missing(number)]

    def drop_surplus(self) -> None:
        """Remove the files of partitions that the input no longer has."""
        for kind in self.kinds:
            surplus = set(self.output.layout.parts(kind)) - set(self.names)
            for file in self.output.layout.files(sorted(surplus), kind):
                storage.remove(file)
