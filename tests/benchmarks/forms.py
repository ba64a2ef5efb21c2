"""The demo model with its text tower in either form: fixed lengths, or packed.

Its graph takes captions of any length, so one file serves as every tower of both.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from benchmarks.systems.published import CONFIG, Manifest, encoders, manifests, packed
from benchmarks.systems.repositories import write_manifest
from tests.conftest import REPOSITORY

DEMO = manifests(REPOSITORY)["demo"]
CONTEXT: int = DEMO["tokenizer"]["context_length"]
FIXED, PACKED = "fixed", "packed"
FORMS = (FIXED, PACKED)


def write_form(folder: Path, form: str) -> Manifest:
    """Write a repository with the demo model in this form; return its manifest.

    Without a change where the demo is in this form already.
    """
    if packed(DEMO) == (form == PACKED):
        texts = DEMO["triton"]["text"]
    elif form == PACKED:
        texts = [{"name": "demo.text", "length": CONTEXT, "max_batch": 32, "packed": True}]
    else:
        lengths = (CONTEXT // 2, CONTEXT)
        texts = [{"name": f"demo.text-{n}", "length": n, "max_batch": 32} for n in lengths]
    manifest = DEMO | {"triton": DEMO["triton"] | {"text": texts}, "files": {}}
    folder.mkdir(parents=True)
    tokenizer = manifest["tokenizer"]["file"]
    for name in (tokenizer, manifest["triton"]["image"]["name"]):
        _copy(REPOSITORY / name, folder / name)
    for tower in texts:
        _copy_text(folder / tower["name"], tower)
    write_manifest(folder, manifest)
    return manifest


def _copy_text(target: Path, tower: dict[str, Any]) -> None:
    _copy(REPOSITORY / encoders(DEMO)[-1]["name"], target)
    text = (target / CONFIG).read_text()
    length = -1 if tower.get("packed") else tower["length"]
    text = re.sub(r'^name: ".*"', f'name: "{tower["name"]}"', text)
    ids = r'(name: "token_ids"\s+data_type: TYPE_INT32\s+dims:) -?\d+'
    text, found = re.subn(ids, rf"\1 {length}", text)
    assert found == 1, text
    (target / CONFIG).write_text(text)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
