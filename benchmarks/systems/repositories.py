"""Copies of one model from a model repository, with changes for a measurement.

A copy is made of hard links where the file system allows, so that a large model costs nothing.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.systems.published import CONFIG, SUFFIX, Manifest, encoders


@contextlib.contextmanager
def copy(repository: Path, manifest: Manifest) -> Iterator[Path]:
    """A repository with this model alone, until the block ends."""
    # Next to the original, since hard links do not reach other file systems.
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
    """Publish a manifest."""
    path = repository / (manifest["id"] + SUFFIX)
    path.unlink(missing_ok=True)  # it may be a hard link to the original
    path.write_text(json.dumps(manifest, indent=1))


def edit(repository: Path, manifest: Manifest, change: Callable[[ModelConfig], None]) -> None:
    """Change given keys in the `config.pbtxt` of every encoder."""
    for encoder in encoders(manifest):
        path = repository / encoder["name"] / CONFIG
        config = text_format.Parse(path.read_text(), ModelConfig())
        change(config)
        path.unlink()  # a hard link to the original, which must not change
        path.write_text(text_format.MessageToString(config))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
