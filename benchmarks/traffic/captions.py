"""Realistic captions: a natural mix of lengths, and no repetitions.

Lengths follow a log-normal distribution: the median is 15 tokens and the 95th percentile 22, with
the start and the end token counted. Every word is one token of CLIP's tokenizer, so that the
length of a caption in tokens is known without the tokenizer.
"""

import math
import random
from collections.abc import Iterator

MEDIAN, P95 = 15, 22  # tokens, start and end token included
SPECIAL = 2  # the start and the end token
SHORTEST, LONGEST = 7, 76  # tokens

SIGMA = math.log(P95 / MEDIAN) / 1.645  # 1.645: the 95th percentile of the normal distribution

DETERMINERS = "a the one some this my their another"
ADJECTIVES = (
    "red blue green old young small large wooden white black bright dark empty busy quiet "
    "beautiful modern tall round wet dry fresh yellow brown happy sleepy broken shiny golden"
)
NOUNS = (
    "man woman boy girl dog cat horse bird car truck train boat table chair street house tree "
    "river mountain beach field kitchen garden phone book plate cake pizza bear child player "
    "bridge tower window door bench park station market school church"
)
VERBS = (
    "standing sitting walking running playing looking waiting sleeping eating riding holding "
    "watching resting moving jumping"
)
PREPOSITIONS = "near behind beside under above with inside outside against across beyond along"


class Captions:
    """An endless, repeatable stream of captions; streams with different seeds share almost none.

    With `length` all have that number of tokens, start and end token included; else they follow
    the mix.
    """

    def __init__(self, seed: int = 0, length: int | None = None) -> None:
        self._length = length
        self._random = random.Random(seed)
        self._seen: set[str] = set()
        self._determiners = DETERMINERS.split()
        self._adjectives = ADJECTIVES.split()
        self._nouns = NOUNS.split()
        self._verbs = VERBS.split()
        self._prepositions = PREPOSITIONS.split()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """A caption that this stream has not yielded before."""
        while True:
            caption = self._sentence(self._tokens() - SPECIAL)
            if caption not in self._seen:
                self._seen.add(caption)
                return caption

    def take(self, count: int) -> list[str]:
        """The next `count` captions."""
        return [next(self) for _ in range(count)]

    def _tokens(self) -> int:
        if self._length is not None:
            return self._length
        drawn = round(self._random.lognormvariate(math.log(MEDIAN), SIGMA))
        return min(max(drawn, SHORTEST), LONGEST)

    def _sentence(self, words: int) -> str:
        """A sentence of this number of words."""
        one_of = self._random.choice
        said = [
            one_of(self._determiners),
            one_of(self._adjectives),
            one_of(self._nouns),
            one_of(self._verbs),
        ]
        while words - len(said) >= 3:
            phrase = [one_of(self._prepositions), one_of(self._determiners), one_of(self._nouns)]
            if words - len(said) > 3 and self._random.random() < 0.5:
                phrase.insert(2, one_of(self._adjectives))
            said += phrase
        # One or two missing words become adjectives of the last noun.
        missing = [one_of(self._adjectives) for _ in range(words - len(said))]
        said[-1:-1] = missing
        return " ".join(said)


def tokens(caption: str) -> int:
    """Length of a caption of this module in tokens, start and end token included."""
    return len(caption.split()) + SPECIAL
