"""Copies of one model out of a model repository, changed in what a measurement is about.

A copy is made of hard links where the file system allows, so that a large model costs nothing.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.systems.published import CONFIG, SUFFIX, Manifest, encoders, packed
from benchmarks.traffic.errors import BenchmarkError

THREADS = "intra_op_thread_count"


@contextlib.contextmanager
def copy(repository: Path, manifest: Manifest) -> Iterator[Path]:
    """A repository with this model alone, until the block ends."""
    # Beside the original, since hard links do not reach other file systems.
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=repository.parent) as name:
        folder = Path(name)
        for encoder in encoders(manifest):
            source = repository / encoder["name"]
            shutil.copytree(source, folder / encoder["name"], copy_function=_link)
        tokenizer = manifest["tokenizer"]["file"]
        _link(str(repository / tokenizer), str(folder / tokenizer))
        write_manifest(folder, manifest)
        yield folder


def write_manifest(repository: Path, manifest: Manifest) -> None:
    """Publishes a manifest."""
    path = repository / (manifest["id"] + SUFFIX)
    path.unlink(missing_ok=True)  # it may be a hard link to the original
    path.write_text(json.dumps(manifest, indent=1))


def keep_lengths(repository: Path, manifest: Manifest, lengths: Sequence[int]) -> Manifest:
    """Serves text at these lengths only; those that the model lacks are passed over.

    Raises:
        BenchmarkError: The full context is not among them, or the model has no fixed lengths.
    """
    check_lengths_are_fixed(manifest)
    context = manifest["tokenizer"]["context_length"]
    if context not in lengths:
        raise BenchmarkError(f"token lengths {lengths}: the full context, {context}, is missing")
    texts = [encoder for encoder in manifest["triton"]["text"] if encoder["length"] in lengths]
    changed = manifest | {"triton": manifest["triton"] | {"text": texts}}
    write_manifest(repository, changed)
    return changed


def check_lengths_are_fixed(manifest: Manifest) -> None:
    """Nothing, for a model that serves text at fixed lengths.

    Raises:
        BenchmarkError: Its text encoder is packed.
    """
    if packed(manifest):
        raise BenchmarkError(
            f"{manifest['id']}: its text encoder is packed and has no fixed token lengths to "
            "choose from; export the model with --token-lengths 16,24,32,full to compare lengths"
        )


def set_max_batch(repository: Path, manifest: Manifest, size: int) -> Manifest:
    """Sets the largest batch that Triton runs, for every encoder."""

    def changed(encoder: dict[str, Any]) -> dict[str, Any]:
        return encoder | {"max_batch": size}

    for encoder in encoders(manifest):
        _edit(repository / encoder["name"], r"max_batch_size:\s*\d+", f"max_batch_size: {size}")
    models = manifest["triton"]
    known = {"image": changed(models["image"]), "text": [changed(t) for t in models["text"]]}
    result = manifest | {"triton": known}
    write_manifest(repository, result)
    return result


def set_queue_delay(repository: Path, manifest: Manifest, microseconds: int) -> None:
    """Sets how long Triton waits for more requests to join a batch."""
    wanted = f"max_queue_delay_microseconds: {microseconds}"
    for encoder in encoders(manifest):
        _edit(repository / encoder["name"], r"max_queue_delay_microseconds:\s*\d+", wanted)


def set_instances(repository: Path, manifest: Manifest, count: int, threads: int) -> None:
    """Sets the instances of every encoder, and the ONNX Runtime threads of each."""
    entry = f'parameters {{ key: "{THREADS}" value {{ string_value: "{threads}" }} }}\n'
    for encoder in encoders(manifest):
        folder = repository / encoder["name"]
        _edit(folder, r"count:\s*\d+", f"count: {count}")
        own = r"parameters\s*\{\s*key:\s*\"" + THREADS + r"\"\s*value:?\s*\{[^}]*\}\s*\}\s*"
        text = re.sub(own, "", (folder / CONFIG).read_text())
        _write(folder / CONFIG, text.rstrip("\n") + "\n" + entry)


def _edit(folder: Path, pattern: str, replacement: str) -> None:
    """Replaces a value in a `config.pbtxt`.

    Raises:
        BenchmarkError: It is not there.
    """
    text, count = re.subn(pattern, replacement, (folder / CONFIG).read_text())
    if not count:
        raise BenchmarkError(f"{folder / CONFIG}: nothing in it matches {pattern}")
    _write(folder / CONFIG, text)


def _write(path: Path, text: str) -> None:
    path.unlink()  # a hard link to the original, which must not change
    path.write_text(text)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
