"""Changes of texts: cut, padded, misspelt, in capitals, in other templates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

WORDS = 75  # if each is one token: with start and end, the context length of most models
CUTS = (5, 10, 20, 40, 77)  # tokens, start and end included
FILLERS = (5, 10, 20, 40, 70)  # words
TYPOS = (10, 25, 50, 100)  # % of words
FILLER = ["and", "so", "on", "and", "so", "forth", "as", "one", "may", "say", "of", "this", "here"]
UNITS = {"cut": "tokens", "filler appended": "words", "typos": "% of words"}
TEMPLATES = (
    "a {}", "a photo of a {}.", "a photo of the {}.", "an image of a {}.", "a drawing of a {}.",
    "a bad photo of a {}.", "itap of a {}.", "there is a {} in it",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """Changed texts, with their originals."""

    name: str
    strength: str
    before: Sequence[str]
    after: Sequence[str]


def changes(captions: Sequence[str], seed: int) -> Iterator[Change]:
    """Each change of the captions.

    To be cut, each caption is extended by the next ones until it fills the context.
    """
    long = [
        " ".join(islice((w for c in cycle([*captions[i:], *captions[:i]])
                         for w in (*c.split(), "and")), WORDS))
        for i in range(len(captions))
    ]  # fmt: skip
    for tokens in CUTS:
        yield Change("cut", f"{tokens}", long, [" ".join(t.split()[: tokens - 2]) for t in long])
    for count in FILLERS:
        filler = " ".join(islice(cycle(FILLER), count))
        yield Change("filler appended", f"{count}", captions, [f"{t} {filler}" for t in captions])
    for share in TYPOS:
        wrong = [
            _misspelt(text, share, np.random.default_rng([seed, i]))
            for i, text in enumerate(captions)
        ]
        yield Change("typos", f"{share}", captions, wrong)
    yield Change("case", "upper", captions, [text.upper() for text in captions])
    yield Change("case", "title", captions, [text.title() for text in captions])
    yield Change("full stop", "added", captions, [f"{text}." for text in captions])


def _misspelt(text: str, share: float, rng: np.random.Generator) -> str:
    """Exchange two neighbouring letters in a share of the words, in %, rounded up."""
    words = text.split()
    usable = [i for i, word in enumerate(words) if len(word) > 1]
    for i in rng.permutation(usable)[: int(np.ceil(len(usable) * share / 100))]:
        word, at = words[i], int(rng.integers(len(words[i]) - 1))
        words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)
