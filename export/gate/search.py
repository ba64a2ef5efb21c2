"""Searches for quantized graphs that pass the gate, from the fastest recipe to safer ones."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from export.errors import CrashError
from export.gate.measurement import Evaluation
from export.precision.variants import Candidate, Graphs

MAX_EVALUATIONS = 12  # pairs of encoders, each on the whole evaluation set

Judge = Callable[[Graphs], tuple[Evaluation, Sequence[str]]]  # figures, and missed thresholds


@dataclass(frozen=True, slots=True)
class Found:
    """The chosen graphs, with their figures and missed thresholds."""

    graphs: Graphs
    evaluation: Evaluation
    failures: tuple[str, ...]


def first_good(tried: Iterator[Candidate], needed: float) -> Iterator[Candidate]:
    """Yield the candidates that reach a mean cosine; if none does, the best one."""
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
    images: Iterator[Candidate],
    texts: Iterator[Candidate],
    traced: Graphs,
    judge: Judge,
) -> Found:
    """Judge pairs of candidates until all figures pass.

    Accuracy and recall do not show which encoder causes a loss, so both get safer in turn, the
    image encoder first. Pairs that crash ONNX Runtime are skipped.

    Args:
        images: Candidates for the image encoder, the fastest first; at least one.
        texts: Candidates for the text encoder, likewise.
        traced: The FP32 graphs.
        judge: Runs the gate.

    Returns:
        The first pair that passes, or the one with the fewest failures.

    Raises:
        CrashError: ONNX Runtime crashed on every pair.
    """
    best: Found | None = None
    crash: CrashError | None = None
    for image, text in itertools.islice(_in_turn(images, texts), MAX_EVALUATIONS):
        graphs = replace(
            traced,
            image=image.proto,
            text=dict.fromkeys(traced.text, text.proto),
            recipe={"image": image.recipe.describe(), "text": text.recipe.describe()},
        )
        try:
            evaluation, failures = judge(graphs)
        except CrashError as error:
            crash = error
            continue
        if best is None or len(failures) < len(best.failures):
            best = Found(graphs, evaluation, tuple(failures))
        if not failures:
            break
    if best is None:
        raise crash or ValueError("an encoder has no candidates")
    return best


def _in_turn(
    images: Iterator[Candidate], texts: Iterator[Candidate]
) -> Iterator[tuple[Candidate, Candidate]]:
    """Yield pairs that replace one encoder at a time; an encoder without candidates stays."""
    image, text = next(images, None), next(texts, None)
    if image is None or text is None:
        return
    yield image, text
    while True:
        safer_image = next(images, None)
        if safer_image is not None:
            image = safer_image
            yield image, text
        safer_text = next(texts, None)
        if safer_text is not None:
            text = safer_text
            yield image, text
        if safer_image is None and safer_text is None:
            return
