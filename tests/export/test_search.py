"""The search for INT8: the first recipe that passes, or the one that falls least short."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import onnx
import pytest

from export.errors import CrashError
from export.gate.measurement import Evaluation
from export.gate.search import MAX_EVALUATIONS, Judge, first_good, search
from export.precision.recipe import Recipe
from export.precision.variants import Candidate, Graphs

NOTHING = cast(Evaluation, None)  # the search only hands it on


def candidate(cosine: float) -> Candidate:
    return Candidate(Recipe("uint8", "minmax", cosine), onnx.ModelProto(), cosine)


def candidates(*cosines: float) -> Iterator[Candidate]:
    return map(candidate, cosines)


def traced(*lengths: int) -> Graphs:
    return Graphs(onnx.ModelProto(), dict.fromkeys(lengths, onnx.ModelProto()))


def judged(failures: Callable[[float], list[str]], seen: list[float]) -> Judge:
    def judge(graphs: Graphs) -> tuple[Evaluation, list[str]]:
        cosine = float(graphs.recipe["image"].rpartition(" ")[2])
        seen.append(cosine)
        return NOTHING, failures(cosine)

    return judge


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([0.5, 0.995, 0.6, 0.999], [0.995, 0.999]),
        ([0.5, 0.8, 0.7], [0.8]),  # none is good enough: the nearest is left to the gate
        ([0.99], [0.99]),
    ],
)
def test_first_good(given: list[float], kept: list[float]) -> None:
    found = first_good(candidates(*given), 0.99)
    assert [each.mean_cosine for each in found] == kept


def tried(encoder: str, graphs: Graphs) -> float:
    return float(graphs.recipe[encoder].rpartition(" ")[2])


def test_it_stops_at_the_first_that_passes() -> None:
    seen: list[float] = []
    judge = judged(lambda cosine: [] if cosine >= 0.5 else ["short"], seen)
    found = search(candidates(0.1, 0.5, 0.9), candidates(1.0), traced(8, 16), judge)
    assert seen == [0.1, 0.5]
    assert found.failures == ()
    assert found.graphs.text[8] is found.graphs.text[16]


def test_the_fewest_failures_win_when_none_passes() -> None:
    seen: list[float] = []
    counts: dict[float, int] = {0.1: 2, 0.2: 1, 0.3: 3}
    judge = judged(lambda cosine: ["short"] * counts[cosine], seen)
    found = search(candidates(*counts), candidates(1.0), traced(8), judge)
    assert seen == [0.1, 0.2, 0.3]
    assert tried("image", found.graphs) == 0.2


def test_both_encoders_get_safer_in_turn() -> None:
    """A text encoder whose cosines pass may still be what spoils accuracy."""
    seen: list[tuple[float, float]] = []

    def judge(graphs: Graphs) -> tuple[Evaluation, list[str]]:
        seen.append((tried("image", graphs), tried("text", graphs)))
        return NOTHING, [] if tried("text", graphs) >= 0.6 else ["accuracy is short"]

    found = search(candidates(0.1, 0.2), candidates(0.4, 0.5, 0.6), traced(8), judge)
    assert seen == [(0.1, 0.4), (0.2, 0.4), (0.2, 0.5), (0.2, 0.6)]
    assert found.failures == ()


def test_it_ends_when_neither_has_more() -> None:
    seen: list[float] = []
    search(candidates(0.1, 0.2), candidates(0.3), traced(8), judged(lambda cosine: ["short"], seen))
    assert seen == [0.1, 0.2]


def test_it_gives_up_after_so_many() -> None:
    seen: list[float] = []
    endless: Any = (candidate(0.1 + index / 1000) for index in range(1000))
    search(endless, candidates(1.0), traced(8), judged(lambda cosine: ["short"], seen))
    assert len(seen) == MAX_EVALUATIONS


def test_a_pair_that_crashes_is_passed_over() -> None:
    def judge(graphs: Graphs) -> tuple[Evaluation, list[str]]:
        if tried("image", graphs) < 0.2:
            raise CrashError("ended with signal 11")
        return NOTHING, []

    found = search(candidates(0.1, 0.2), candidates(1.0), traced(8), judge)
    assert tried("image", found.graphs) == 0.2
    with pytest.raises(CrashError, match="signal 11"):
        search(candidates(0.1), candidates(1.0), traced(8), judge)
