"""Mean batch sizes in Triton, from its own counters."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.request import urlopen

LINE = re.compile(r'^(nv_inference_count|nv_inference_exec_count)\{model="([^"]+)",[^}]*\} (\S+)')


@dataclass(frozen=True, slots=True)
class Counts:
    """What some Triton models have done since they were loaded."""

    items: float
    executions: float

    @classmethod
    def read(cls, metrics_url: str, models: Iterable[str]) -> Self:
        """Reads them from Triton's metrics."""
        with urlopen(metrics_url, timeout=10) as answer:  # noqa: S310 (a Triton of ours)
            return cls.parse(answer.read().decode(), models)

    @classmethod
    def parse(cls, text: str, models: Iterable[str]) -> Self:
        """From the text of the metrics."""
        wanted = set(models)
        found = [match for line in text.splitlines() if (match := LINE.match(line))]
        totals = {"nv_inference_count": 0.0, "nv_inference_exec_count": 0.0}
        for match in found:
            if match[2] in wanted:
                totals[match[1]] += float(match[3])
        return cls(totals["nv_inference_count"], totals["nv_inference_exec_count"])

    def mean_batch_since(self, before: "Counts") -> float:
        """Items per execution since then; not a number where nothing was executed."""
        executions = self.executions - before.executions
        return (self.items - before.items) / executions if executions else float("nan")
