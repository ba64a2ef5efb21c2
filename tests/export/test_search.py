"""The search for INT8: the first recipe that passes, or the one that falls least short."""

from collections.abc import Callable
from typing import Any, cast

import onnx
import pytest

from export.gate import Evaluation
from export.quantize import Recipe
from export.search import MAX_EVALUATIONS, Judge, first_good, search
from export.variants import Candidate, Graphs

NOTHING = cast(Evaluation, None)  # the search only hands it on


def candidate(cosine: float) -> Candidate:
    return Candidate(Recipe("uint8", "minmax", cosine), onnx.ModelProto(), cosine)


def judged(failures: Callable[[float], list[str]], seen: list[float]) -> Judge:
    def judge(graphs: Graphs) -> tuple[Evaluation, list[str]]:
        cosine = float(graphs.recipe["image"].rpartition(" ")[2])
        seen.append(cosine)
        return NOTHING, failures(cosine)

    return judge


@pytest.mark.parametrize(
    ("tried", "kept"),
    [
        ([0.5, 0.995, 0.6, 0.999], [0.995, 0.999]),
        ([0.5, 0.8, 0.7], [0.8]),  # none is good enough: the nearest is left to the gate
        ([0.99], [0.99]),
    ],
)
def test_first_good(tried: list[float], kept: list[float]) -> None:
    found = first_good(map(candidate, tried), 0.99)
    assert [each.mean_cosine for each in found] == kept


def test_it_stops_at_the_first_that_passes() -> None:
    seen: list[float] = []
    judge = judged(lambda cosine: [] if cosine >= 0.5 else ["short"], seen)
    found = search(map(candidate, [0.1, 0.5, 0.9]), candidate(1.0), (8, 16), judge)
    assert seen == [0.1, 0.5]
    assert found.failures == ()
    assert found.graphs.text[8] is found.graphs.text[16]


def test_the_fewest_failures_win_when_none_passes() -> None:
    seen: list[float] = []
    counts: dict[float, int] = {0.1: 2, 0.2: 1, 0.3: 3}
    judge = judged(lambda cosine: ["short"] * counts[cosine], seen)
    found = search(map(candidate, counts), candidate(1.0), (8,), judge)
    assert seen == [0.1, 0.2, 0.3]
    assert found.graphs.recipe["image"].endswith("0.2")


def test_it_gives_up_after_so_many() -> None:
    seen: list[float] = []
    endless: Any = (candidate(0.1 + index / 1000) for index in range(1000))
    search(endless, candidate(1.0), (8,), judged(lambda cosine: ["short"], seen))
    assert len(seen) == MAX_EVALUATIONS
