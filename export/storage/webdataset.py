"""Reads a data set in CLIP_benchmark's layout: `SPLIT/nshards.txt`, `SPLIT/0.tar` and so on.

With classes, `classnames.txt` has a name on each line, `zeroshot_classification_templates.txt` a
template, and each picture a label in its `.cls`. If `dataset_type.txt` says `retrieval`, each
picture has its captions in its `.txt`, one per line.
"""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

from export.errors import ExportError, MissingError, brief
from export.storage.data_set import PLACEHOLDER, DataSet
from export.storage.place import Place, place_at, read
from export.storage.shard import Sample, samples

CLASSES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
TYPE = "dataset_type.txt"
SHARDS = "nshards.txt"
PICTURES = ("webp", "png", "jpg", "jpeg")  # endings, the first that a sample has counts
MAX_LIST = 2**22  # bytes of each of these lists
MAX_SHARDS = 10_000
MAX_PICTURES = 100_000
MAX_TEXTS = 1_000_000  # prompts or captions
MAX_BYTES = 8 * 2**30  # of all pictures, which are held in memory


def is_webdataset(address: str, split: str) -> bool:
    """Whether this is a URL, or a folder with one of the layout's own files."""
    folder = Path(address)
    names = (CLASSES, TEMPLATES, TYPE, f"{split}/{SHARDS}")
    return "://" in address or any((folder / name).is_file() for name in names)


def read_data_set(address: str, split: str) -> DataSet:
    """Read one split, a folder of shards, of the data set in a folder or at a URL.

    Raises:
        ExportError: A file is missing, unreadable or not in the layout's format, or over a limit
        of this module. Names the file.
    """
    place, name = place_at(address), _name(address)
    kind = _kind(place)
    if kind not in ("classification", "retrieval"):
        raise ExportError(f"{place}: {TYPE}: {kind!r} is not classification or retrieval")
    found = _samples(place, split)
    made = _captioned(name, found) if kind == "retrieval" else _labelled(name, place, found)
    if not made.pictures:
        raise ExportError(f"{place}: the split {split} has no pictures")
    return made


def _name(address: str) -> str:
    url = urlsplit(address)
    return Path(url.path).name or url.netloc


def _kind(place: Place) -> str:
    try:
        return _text(place, TYPE).strip().lower()
    except MissingError:
        return "classification"


def _text(place: Place, name: str) -> str:
    try:
        return read(place, name, MAX_LIST).decode()
    except UnicodeDecodeError as error:
        raise ExportError(f"{place}: {name}: is not UTF-8 text") from error


def _lines(place: Place, name: str) -> tuple[str, ...]:
    found = tuple(line.strip() for line in _text(place, name).splitlines())
    if not found:
        raise ExportError(f"{place}: {name}: is empty")
    return found


def _samples(place: Place, split: str) -> Iterator[Sample]:
    said = _text(place, f"{split}/{SHARDS}").strip()
    if not (said.isdecimal() and len(said) <= 9 and 1 <= int(said) <= MAX_SHARDS):
        raise ExportError(f"{place}: {split}/{SHARDS}: is not a number from 1 to {MAX_SHARDS}")
    pictures = held = 0
    for shard in range(int(said)):
        for sample in samples(place, f"{split}/{shard}.tar"):
            pictures += 1
            held += sum(map(len, sample.files.values()))
            if pictures > MAX_PICTURES or held > MAX_BYTES:
                raise ExportError(
                    f"{sample.where}: at most {MAX_PICTURES:,} pictures, of {MAX_BYTES >> 30} GiB "
                    "together, are read of a data set"
                )
            yield sample


def _picture(sample: Sample) -> bytes:
    ending = next((each for each in PICTURES if each in sample.files), None)
    if ending is None:
        raise ExportError(f"{sample.where} has no picture ({', '.join(PICTURES)})")
    data = sample.files[ending]
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # a bad file makes Pillow raise nearly anything
        raise ExportError(f"{sample.where}.{ending}: not a picture: {brief(error)}") from error
    return data


def _of(sample: Sample, ending: str) -> str:
    if ending not in sample.files:
        raise ExportError(f"{sample.where} has no .{ending}")
    try:
        return sample.files[ending].decode()
    except UnicodeDecodeError as error:
        raise ExportError(f"{sample.where}.{ending}: is not UTF-8 text") from error


def _labelled(name: str, place: Place, found: Iterator[Sample]) -> DataSet:
    classes, templates = _lines(place, CLASSES), _lines(place, TEMPLATES)
    for number, template in enumerate(templates, 1):
        if PLACEHOLDER not in template:
            raise ExportError(f"{place}: {TEMPLATES}: line {number} has no {PLACEHOLDER}")
    if len(classes) * len(templates) > MAX_TEXTS:
        raise ExportError(
            f"{place}: {CLASSES} and {TEMPLATES} make {len(classes) * len(templates):,} prompts; "
            f"at most {MAX_TEXTS:,} are read"
        )
    pictures, labels = [], []
    for sample in found:
        said = _of(sample, "cls").strip()
        if not (said.isdecimal() and len(said) <= 9 and int(said) < len(classes)):
            raise ExportError(
                f"{sample.where}.cls: is not a number below {len(classes)}, the number of lines of "
                f"{CLASSES}"
            )
        pictures.append(_picture(sample))
        labels.append(int(said))
    return DataSet(name, tuple(pictures), classes, templates, tuple(labels))


def _captioned(name: str, found: Iterator[Sample]) -> DataSet:
    pictures, captions, owners = list[bytes](), list[str](), list[int]()
    for sample in found:
        own = _of(sample, "txt").splitlines()
        if not own:
            raise ExportError(f"{sample.where}.txt: has no captions")
        captions += own
        if len(captions) > MAX_TEXTS:
            raise ExportError(f"{sample.where}: at most {MAX_TEXTS:,} captions are read")
        owners += [len(pictures)] * len(own)
        pictures.append(_picture(sample))
    return DataSet(name, tuple(pictures), captions=tuple(captions), owners=tuple(owners))
