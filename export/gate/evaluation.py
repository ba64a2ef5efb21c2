"""Evaluation sets: pictures and texts with classes and pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.demo.captions import BACKGROUND_TEMPLATES
from export.demo.model import PLAIN_TEMPLATES
from export.demo.scenes import LABELS, draw_scenes
from export.errors import ExportError, brief
from export.gate.samples import TEXTS, make_pictures, png, read_picture
from export.storage.data_set import DataSet

TEMPLATES = PLAIN_TEMPLATES  # their mean is the vector of a class
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
)
HELD_OUT_SEED = 20_001  # unlike the seeds of training and calibration


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Pictures and texts; the fields from `pairs` on may be empty.

    Attributes:
        pictures: Encoded image files.
        texts: Distinct captions and other texts.
        pairs: Index in `texts` of each picture's own text, or None.
        classes: Names of the classes.
        labels: Index in `classes` of each picture's class, or None.
        data_sets: Sets with pictures and texts of their own.
    """

    pictures: tuple[bytes, ...]
    texts: tuple[str, ...]
    pairs: tuple[int | None, ...] | None = None
    classes: tuple[str, ...] = ()
    labels: tuple[int | None, ...] | None = None
    data_sets: tuple[DataSet, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of each class, class by class."""
        return tuple(t.replace("{}", name) for name in self.classes for t in TEMPLATES)

    @property
    def all_pictures(self) -> tuple[bytes, ...]:
        """All pictures to encode: `pictures`, then those of each data set."""
        return self.pictures + tuple(data for each in self.data_sets for data in each.pictures)

    @property
    def all_texts(self) -> tuple[str, ...]:
        """All texts to encode: `texts`, `prompts`, then those of each data set."""
        others = tuple(text for each in self.data_sets for text in each.texts)
        return self.texts + self.prompts + others

    def joined(self, other: "EvaluationSet") -> "EvaluationSet":
        """Join both sets, of which one may have classes.

        Raises:
            ExportError: Both have classes, or data sets of one name.
        """
        names = [each.name for each in self.data_sets + other.data_sets]
        for name in names:
            if names.count(name) > 1:
                raise ExportError(f"two data sets to evaluate on are named {name}; rename one")
        if self.classes and other.classes:
            raise ExportError("two evaluation sets with classes cannot be joined")
        named = self if self.classes else other
        texts = tuple(dict.fromkeys(self.texts + other.texts))
        place = {text: index for index, text in enumerate(texts)}
        pairs = [
            None if own is None else place[part.texts[own]]
            for part in (self, other)
            for own in part.pairs or [None] * len(part.pictures)
        ]
        labels = [
            label
            for part in (self, other)
            for label in part.labels or [None] * len(part.pictures)
        ]  # fmt: skip
        return EvaluationSet(
            self.pictures + other.pictures, texts,
            tuple(pairs) if self.pairs or other.pairs else None,
            named.classes, tuple(labels) if named.labels else None,
            self.data_sets + other.data_sets,
        )  # fmt: skip


def built_in(image_size: int, extra: Sequence[Path] = ()) -> EvaluationSet:
    """Make the built-in set: odd picture sizes and text lengths, without labels or pairs.

    Raises:
        ExportError: A file of `extra` cannot be read.
    """
    pictures = (*make_pictures(image_size), *map(read_picture, extra))
    return EvaluationSet(pictures, tuple(dict.fromkeys(TEXTS)))


def drawn(count: int = 480) -> EvaluationSet:
    """Draw scenes of the demo, evenly of all colours and shapes, labelled and captioned."""
    scenes = draw_scenes(count, HELD_OUT_SEED)
    template = BACKGROUND_TEMPLATES[0]
    captions = [template.format(each.label, background=each.background) for each in scenes]
    texts = tuple(dict.fromkeys(captions))
    return EvaluationSet(
        pictures=tuple(png(scene.image) for scene in scenes),
        texts=texts,
        pairs=tuple(texts.index(caption) for caption in captions),
        classes=LABELS,
        labels=tuple(LABELS.index(scene.label) for scene in scenes),
    )


def from_files(images: Path, texts: Path | None = None) -> EvaluationSet:
    """Read the user's own set.

    Args:
        images: A folder. The name of a subfolder is the class of its pictures
            (`golden_retriever` is "golden retriever"); other pictures have no class.
        texts: A file with a caption on each line, or with pairs of a picture's path in `images`
            and its caption, separated by a tab.

    Raises:
        ExportError: The folder has no pictures, a picture cannot be read, the file has no
            captions or names a missing picture, or there is only one class.
    """
    files = picture_files(images, "*", "*/*")
    classes = sorted({file.parent for file in files if file.parent != images})
    if len(classes) == 1:
        raise ExportError(
            f"{images}: only one folder with pictures ({classes[0].name}); classes need two or "
            f"more, and pictures without classes lie in {images} itself"
        )
    captions, pairs = _captions(texts, images, files) if texts else ((), None)
    labels = tuple(classes.index(f.parent) if f.parent in classes else None for f in files)
    return EvaluationSet(
        pictures=tuple(read_picture(file) for file in files),
        texts=captions,
        pairs=pairs,
        classes=tuple(folder.name.replace("_", " ") for folder in classes),
        labels=labels if classes else None,
    )


def picture_files(folder: Path, *patterns: str) -> list[Path]:
    """The pictures of a folder that match a pattern, those of each pattern sorted.

    Raises:
        ExportError: There are none.
    """
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such folder")
    found = [
        path
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise ExportError(
            f"{folder}: holds no pictures ({', '.join(sorted(SUFFIXES))}), neither itself nor in "
            "its folders"
        )
    return found


def caption_lines(path: Path) -> list[str]:
    """The lines of a file of captions, without empty ones.

    Raises:
        ExportError: There are none, or it is not UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: cannot be read as UTF-8 text: {brief(error)}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ExportError(f"{path}: holds no captions; write one on each line")
    return found


def _captions(
    path: Path, images: Path, files: Sequence[Path]
) -> tuple[tuple[str, ...], tuple[int | None, ...] | None]:
    """Read the distinct captions, and the index of each picture's caption."""
    lines = caption_lines(path)
    alone = [line for line in lines if "\t" not in line]
    if len(alone) == len(lines):
        return tuple(dict.fromkeys(lines)), None
    if alone:
        raise ExportError(
            f"{path}: {alone[0][:60]!r} is not a picture and its caption, separated by a tab, as "
            "other lines are"
        )
    rows = {file.relative_to(images).as_posix(): row for row, file in enumerate(files)}
    texts: dict[str, int] = {}
    pairs: list[int | None] = [None] * len(files)
    for line in lines:
        name, caption = (part.strip() for part in line.split("\t", 1))
        if name not in rows:
            raise ExportError(f"{path}: {name!r} is not a picture in {images}")
        if pairs[rows[name]] is not None:
            raise ExportError(f"{path}: {name!r} has two captions; give each picture one")
        pairs[rows[name]] = texts.setdefault(caption, len(texts))
    return tuple(texts), tuple(pairs)
