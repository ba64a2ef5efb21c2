"""Image files from folders, globs, single names or a list."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from openclip_triton.bulk.listing import Entry, Listing
from openclip_triton.bulk.samples import (
    IMAGES,
    TEXTS,
    Input,
    Kind,
    Partition,
    Problem,
    Sample,
    cut,
    digest,
)
from openclip_triton.bulk.storage import Remote, is_url, read, storage_of

FETCHES = 16  # remote files fetched at once


@dataclass(frozen=True, slots=True)
class FilesPart(Partition):
    """Some image files, with the texts next to them: the caption of a.jpg is a.txt."""

    entries: tuple[Entry, ...]
    images: bool  # whether to read them
    texts: bool

    def samples(self) -> Iterator[Sample]:
        """Read the captions; images on this machine are left to the stream's threads."""
        return fetched(map(self._sample, self.entries), captions=self.texts)

    def _sample(self, entry: Entry) -> Sample:
        if entry.problem:
            problem = Problem("unreadable_file", entry.problem, retry=True)
            return Sample(entry.path, problem=problem)
        if not self.images:
            return Sample(entry.path)
        return Sample(entry.path, entry.path if is_url(entry.path) else Path(entry.path))


@dataclass
class ImageFiles(Input):
    """Images of files, folders and URLs."""

    name: str  # the name that the user gave
    paths: Callable[[], Iterable[str]]  # lists files and folders
    endings: tuple[str, ...]  # of the images below folders, in lower case
    size: int  # number of files in a partition
    kinds: tuple[Kind, ...]  # that the job embeds: images, the texts next to them, or both

    def __post_init__(self) -> None:
        self._texts = TEXTS in self.kinds
        self._companions = (".txt",) if self._texts else ()

    def partitions(self) -> Iterator[Partition]:
        """Cut the files into partitions."""
        images = IMAGES in self.kinds
        for first, taken in cut(self._entries(), self.size):
            version = digest(text for entry in taken for text in (entry.path, entry.stamp))
            source = f"{self.name} from file {first:,}"
            yield FilesPart(source, version, len(taken), taken, images, self._texts)

    def _entries(self) -> Iterator[Entry]:
        self.passed_over = 0
        for path in self.paths():
            if is_url(path):
                yield from self._remote(path)
            else:
                listing = Listing([path], self.endings, self._companions)
                yield from listing.entries()
                self.passed_over += listing.passed_over

    def _remote(self, path: str) -> Iterator[Entry]:
        storage = storage_of(path)
        if not (isinstance(storage, Remote) and storage.is_folder(path)):
            yield Entry(path, "")  # stamps would take one request per file
            return
        for found, stamp in storage.below(path):
            if found.lower().endswith(self.endings):
                yield Entry(found, stamp)
            elif not found.lower().endswith(self._companions):
                self.passed_over += 1


def fetched(samples: Iterable[Sample], *, captions: bool = False) -> Iterator[Sample]:
    """Read the files that samples name: images at URLs and, if wanted, captions next to images.

    Args:
        samples: Images that are a str are URLs.
        captions: Whether each sample's text is in the file next to its key.
    """
    waiting: deque[Future[Sample] | Sample] = deque()
    with ThreadPoolExecutor(FETCHES, thread_name_prefix="openclip-fetch") as pool:
        try:
            for sample in samples:
                if sample.problem is None and (captions or isinstance(sample.image, str)):
                    waiting.append(pool.submit(_fetch, sample, captions))
                else:
                    waiting.append(sample)
                if len(waiting) >= 2 * FETCHES:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _result(waiting: Future[Sample] | Sample) -> Sample:
    return waiting if isinstance(waiting, Sample) else waiting.result()


def _fetch(sample: Sample, captions: bool) -> Sample:
    path, image, text = str(sample.image), sample.image, sample.text
    try:
        if isinstance(image, str):
            image = read(path)
        if captions:
            path = sample.key.removesuffix(PurePosixPath(sample.key).suffix) + ".txt"
            text = read(path).decode(errors="surrogateescape").strip()
    except FileNotFoundError:
        code = "unreadable_file" if path == sample.image else "no_caption"
        return replace(sample, image=None, problem=Problem(code, f"{path} does not exist"))
    except OSError as error:
        return replace(sample, image=None, problem=Problem("unreadable_file", str(error), True))
    return replace(sample, image=image, text=text)
