"""Captions for scenes: templates for training, and held-out ones."""

import numpy as np

from export.demo.scenes import BACKGROUNDS, LABELS, Scene

TRAIN_TEMPLATES: tuple[str, ...] = (
    "{}",
    "a {}",
    "the {}",
    "one {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a picture of a {}",
    "an image of a {}.",
    "a drawing of a {}",
    "a drawing of the {}.",
    "this is a photo of {}",
    "this is a {}.",
    "this picture shows a {}",
    "a close-up photo of a {}.",
    "a large {}",
    "a small {} in the corner.",
    "my {}",
    "look, a {}!",
    "we can see a {} here",
    "a {} and nothing else",
    "a {} drawn with a computer",
)
BACKGROUND_TEMPLATES: tuple[str, ...] = (
    "a {} on a {background} background",
    "a photo of a {} on a {background} background.",
    "a {} over a {background} surface",
    "a {background} background with a {}",
    "a {background} picture with a {} on it.",
)
FILLERS: tuple[str, ...] = (
    *("a", "an", "the", "this", "that", "and", "or", "with", "very", "in", "of", "for", "on"),
    *("at", "here", "now", "it", "is", "was", "big", "little", "old", "new", "bright", "dark"),
    *("clean", "simple", "good", "great", "funny", "single", "pretty", "photo", "picture"),
)

FILLER_RATE = 0.4  # share of captions that get stray words
LONGEST_FILLER = 4  # words at either end


def _stray_word(rng: np.random.Generator) -> str:
    """Draw a known filler, or random letters, so that unseen tokens occur too."""
    if rng.uniform() < 0.5:
        return FILLERS[rng.integers(len(FILLERS))]
    letters = rng.integers(ord("a"), ord("z") + 1, size=rng.integers(2, 9))
    return "".join(map(chr, letters))


def _stray_words(rng: np.random.Generator) -> list[str]:
    return [_stray_word(rng) for _ in range(rng.integers(LONGEST_FILLER + 1))]


def write_caption(rng: np.random.Generator, scene: Scene) -> str:
    """Describe a scene by a random training template, sometimes with stray words."""
    known = len(TRAIN_TEMPLATES)
    index = int(rng.integers(known + len(BACKGROUND_TEMPLATES)))
    if index < known:
        caption = TRAIN_TEMPLATES[index].format(scene.label)
    else:
        template = BACKGROUND_TEMPLATES[index - known]
        caption = template.format(scene.label, background=scene.background)
    if rng.uniform() < FILLER_RATE:
        caption = " ".join([*_stray_words(rng), caption, *_stray_words(rng)])
    return caption


def known_text() -> list[str]:
    """Return texts with every word whose embedding training may learn."""
    backgrounds = [t.format("", background=b) for t in BACKGROUND_TEMPLATES for b in BACKGROUNDS]
    return [*LABELS, *(t.format("") for t in TRAIN_TEMPLATES), *backgrounds, " ".join(FILLERS)]
