"""The measurements of one model, part by part."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from openclip_triton.values import Vectors

from benchmarks.reporting.results import Row
from benchmarks.traffic.captions import NOUNS
from robustness import drift, perturbations, texts
from robustness.adversarial import Attack, attack, changed
from robustness.figures import ADVERSARIAL, DRIFT, GREY, PIXELS, TEXT, figures, fit
from robustness.pictures import Pictures
from robustness.plots import Shown
from robustness.service import Subject, prepare

TEMPLATE = "a photo of a {}."  # of the text for a class
ATTACKED = 4  # pictures


class Measurement:
    """One model and its inputs for the measurements.

    The top label is the class with the nearest text; without classes, the nearest unchanged
    picture.

    Args:
        subject: The model.
        pictures: Its inputs.
        seed: Of every random choice.
        budget: Number of pictures to embed in each search for adversarial pixels.
    """

    def __init__(self, subject: Subject, pictures: Pictures, seed: int, budget: int) -> None:
        self.shown: list[Shown] = []  # finished attacks
        self._subject, self._pictures, self._seed, self._budget = subject, pictures, seed, budget
        self._pixels = [prepare(data, subject.rules) for data in pictures.files]
        self._clean = subject.pixels(self._pixels)
        prompts = [TEMPLATE.format(name) for name in pictures.classes]
        self._targets = subject.embed(prompts) if prompts else self._clean

    def rows(self, part: str) -> Iterator[Row]:
        """Measure one of `figures.PARTS`.

        Raises:
            ClientError: The service refused something, or did not answer.
        """
        parts = {
            GREY: self._grey, PIXELS: self._noises, DRIFT: self._drift, TEXT: self._texts,
            ADVERSARIAL: self._attacks,
        }  # fmt: skip
        return parts[part]()

    def _grey(self) -> Iterator[Row]:
        for each in perturbations.GREYS:
            rows = list(self._perturbed(GREY, each))
            yield from (*rows, fit(rows))

    def _noises(self) -> Iterator[Row]:
        for each in perturbations.NOISES:
            yield from self._perturbed(PIXELS, each)

    def _perturbed(self, part: str, change: perturbations.Perturbation) -> Iterator[Row]:
        for strength in change.strengths:
            seen = self._subject.embed(list(change.files(self._pixels, strength, self._seed)))
            yield self._row(part, change.name, f"{strength:g}", self._clean, seen)

    def _drift(self) -> Iterator[Row]:
        right = self._subject.embed(self._pictures.files)
        for fault, made in drift.vectors(self._subject, self._pictures.files).items():
            yield self._row(DRIFT, fault, "", right, made)

    def _texts(self) -> Iterator[Row]:
        for change in texts.changes(self._pictures.captions, self._seed):
            before, after = (self._subject.embed(each) for each in (change.before, change.after))
            yield self._row(TEXT, change.name, change.strength, before, after)
        names = self._pictures.classes or NOUNS.split()
        plain = self._subject.embed(names)
        for template in texts.TEMPLATES:
            made = self._subject.embed([template.format(name) for name in names])
            yield self._row(TEXT, "template", template, plain, made)

    def _attacks(self) -> Iterator[Row]:
        names, count = self._pictures.classes or self._pictures.names, len(self._pixels)
        chosen = sorted({i * (count - 1) // (ATTACKED - 1) for i in range(ATTACKED)})
        with ThreadPoolExecutor(ATTACKED) as pool:  # whose calls share batches
            ends = list(pool.map(self._attack, chosen))
        for i, (label, end) in zip(chosen, ends, strict=True):
            pixels = len(changed(self._pixels[i], end.pixels))
            row = Row(
                {"model": self._subject.model.id, "part": ADVERSARIAL,
                 "picture": self._pictures.names[i], "label": names[label],
                 "becomes": names[end.label] if pixels else ""},
                {"pixels": pixels, "tried": end.tried, "embedded": end.calls},
            )  # fmt: skip
            self.shown.append((row, self._pixels[i], end.pixels))
            yield row

    def _attack(self, i: int) -> tuple[int, Attack]:
        """The top label of a picture, and the result of the search for pixels that change it."""
        label = int((self._targets @ self._clean[i]).argmax())
        embed, pixels = self._subject.pixels, self._pixels[i]
        return label, attack(pixels, label, self._targets, embed, self._budget, self._seed)

    def _row(self, part: str, name: str, strength: str, before: Vectors, after: Vectors) -> Row:
        """Figures of pictures among the classes, or of texts, each its own class."""
        targets, labels = self._targets, self._pictures.labels
        if part == TEXT:
            targets, labels = before, None
        labelled = {"change": name, "strength": strength}
        return Row(
            {"model": self._subject.model.id, "part": part, **labelled},
            figures(before, after, targets, labels),
        )
