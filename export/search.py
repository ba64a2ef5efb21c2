"""Finds INT8 graphs that pass the gate: the fastest recipe first, then ever safer ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from export.gate import Evaluation
from export.variants import Candidate, Graphs

MAX_EVALUATIONS = 6  # of both towers together; each runs the whole evaluation set

Judge = Callable[[Graphs], tuple[Evaluation, Sequence[str]]]  # figures, and what fell short


@dataclass(frozen=True, slots=True)
class Found:
    """The graphs that were chosen, and how they did."""

    graphs: Graphs
    evaluation: Evaluation
    failures: tuple[str, ...]


def first_good(tried: Iterator[Candidate], needed: float) -> Iterator[Candidate]:
    """Those that reach the mean cosine needed; if none does, the one that comes nearest."""
    best: Candidate | None = None
    good = False
    for candidate in tried:
        if candidate.mean_cosine >= needed:
            good = True
            yield candidate
        elif best is None or candidate.mean_cosine > best.mean_cosine:
            best = candidate
    if not good and best is not None:
        yield best


def search(
    images: Iterator[Candidate], text: Candidate, lengths: Sequence[int], judge: Judge
) -> Found:
    """Judges the text tower's candidate with the image tower's, until all figures pass.

    Args:
        images: Candidates for the image tower, at least one.
        text: The candidate for the text tower.
        lengths: Token lengths that it is served at.
        judge: Runs the gate.

    Returns:
        The first that passes; or, of those judged, the one with the fewest failures.
    """
    best: Found | None = None
    for count, image in enumerate(images, 1):
        graphs = Graphs(
            image.proto,
            dict.fromkeys(lengths, text.proto),
            {"image": image.recipe.describe(), "text": text.recipe.describe()},
        )
        evaluation, failures = judge(graphs)
        found = Found(graphs, evaluation, tuple(failures))
        if best is None or len(found.failures) < len(best.failures):
            best = found
        if not best.failures or count == MAX_EVALUATIONS:
            break
    if best is None:
        raise ValueError("no candidates for the image tower")
    return best
