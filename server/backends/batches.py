"""Runs requests in as few calls of a graph as their shapes allow."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

Tensors = dict[str, np.ndarray]
Call = Callable[[list[str], Tensors], list[np.ndarray]]  # names of outputs, inputs -> outputs


@dataclass(frozen=True, slots=True)
class Item:
    """One request: its index in the call, its inputs and the outputs to return."""

    index: int
    inputs: Tensors  # batched: each [rows, ...]
    outputs: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Length of the first dimension, equal for all inputs of a batched model."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, slots=True)
class Runner:
    """A graph to call; ``max_batch_size`` 0 means no batching."""

    call: Call
    max_batch_size: int

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Tensors | Exception]]:
        """Answer every item with its outputs or its own error."""
        for group in self._groups(items):
            yield from self._run_group(group)

    def _groups(self, items: Iterable[Item]) -> list[list[Item]]:
        """Group items whose inputs differ in the first dimension only, up to the batch size."""
        if not self.max_batch_size:
            return [[item] for item in items]
        groups: list[list[Item]] = []
        open_group: dict[tuple[object, ...], list[Item]] = {}
        for item in items:
            key = tuple((name, a.dtype, a.shape[1:]) for name, a in sorted(item.inputs.items()))
            group = open_group.get(key)
            if not group or sum(i.rows for i in group) + item.rows > self.max_batch_size:
                group = open_group[key] = []
                groups.append(group)
            group.append(item)
        return groups

    def _run_group(self, group: list[Item]) -> Iterator[tuple[Item, Tensors | Exception]]:
        try:
            results: list[Tensors | Exception] = list(self._call(group))
        except Exception as error:  # the errors of a graph share no narrower base class
            if len(group) > 1:
                # One bad request (a token id out of range) fails the whole run.
                for item in group:
                    yield from self._run_group([item])
                return
            results = [error]
        yield from zip(group, results, strict=True)

    def _call(self, group: list[Item]) -> list[Tensors]:
        wanted = sorted({name for item in group for name in item.outputs})
        inputs = group[0].inputs
        if len(group) > 1:
            inputs = {name: np.concatenate([i.inputs[name] for i in group]) for name in inputs}
        arrays = self.call(wanted, inputs)
        outputs: Tensors = dict(zip(wanted, arrays, strict=True))
        if len(group) == 1:
            return [outputs]
        return list(_split(outputs, group))


def _split(outputs: Tensors, group: list[Item]) -> Iterator[Tensors]:
    total = sum(item.rows for item in group)
    for name, array in outputs.items():
        if array.shape[:1] != (total,):
            raise ValueError(
                f"output '{name}' has shape {list(array.shape)} for a batch of {total} rows"
            )
    start = 0
    for item in group:
        end = start + item.rows
        yield {name: outputs[name][start:end] for name in item.outputs}
        start = end
