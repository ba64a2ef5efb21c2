"""Resolves the model and weights that the user named, without loading them."""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
from open_clip.factory import HF_HUB_PREFIX, LOCAL_DIR_PREFIX, _find_checkpoint_in_dir

from export.errors import CheckpointError, brief
from export.source.hub import quick_to_fail

CONFIG_NAME = "open_clip_config.json"  # of OpenCLIP's own folder and hub layout
_CONFIG_KEYS = ("embed_dim", "vision_cfg", "text_cfg")


@dataclass(frozen=True, slots=True)
class Source:
    """One model, by name, tag, file or folder.

    Attributes:
        open_clip_name: Argument of `open_clip.create_model`.
        label: Name for messages: of the architecture, folder or hub repository.
        config: OpenCLIP's model configuration; empty if only the hub has it.
        pretrained: Argument of `open_clip.create_model`; None for a folder or hub name.
        file: A local checkpoint file.
        folder: The folder of `local-dir:`.
        downloads: Whether weights or configuration may need a download.
    """

    open_clip_name: str
    label: str
    config: dict[str, Any]
    pretrained: str | None = None
    file: Path | None = None
    folder: Path | None = None
    downloads: bool = False

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to load; otherwise they are random."""
        return self.file is not None or self.downloads

    @property
    def weights_label(self) -> str | None:
        """Tag, file or hub name of the weights."""
        if self.file is not None:
            return self.file.name
        return (self.pretrained or self.label) if self.downloads else None

    @property
    def text_config(self) -> dict[str, Any]:
        """OpenCLIP's `text_cfg`."""
        text = self.config.get("text_cfg", {})
        return text if isinstance(text, dict) else {}


def resolve(model: str, pretrained: str | None) -> Source:
    """Resolve `MODEL` and `--pretrained`.

    Raises:
        CheckpointError: Unknown name or tag, missing file or folder, or a bad configuration.
    """
    path = Path(model)
    if model.startswith(LOCAL_DIR_PREFIX) or path.is_dir() or path.name == CONFIG_NAME:
        folder = Path(model.removeprefix(LOCAL_DIR_PREFIX))
        _refuse_pretrained(model, pretrained)
        return _from_folder(folder.parent if folder.name == CONFIG_NAME else folder)
    if model.startswith(HF_HUB_PREFIX):
        _refuse_pretrained(model, pretrained)
        return _from_hub(model)
    name = _register(path) if path.suffix == ".json" else model.replace("/", "-")
    config = open_clip.get_model_config(name)
    if config is None:
        raise CheckpointError(_unknown_name(model))
    if pretrained is None:
        return Source(name, name, config)
    if open_clip.pretrained.is_pretrained_cfg(name, pretrained):
        return Source(name, name, config, pretrained, downloads=True)
    file = Path(pretrained)
    if not file.is_file():
        raise CheckpointError(_unknown_tag(name, pretrained))
    return Source(name, name, config, str(file.resolve()), file=file)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: It is unreadable or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {brief(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def _refuse_pretrained(model: str, pretrained: str | None) -> None:
    if pretrained is not None:
        raise CheckpointError(
            f"--pretrained {pretrained}: {model} brings its own weights; leave the option out"
        )


def _from_folder(folder: Path) -> Source:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    config = read_json(folder / CONFIG_NAME).get("model_cfg", {})
    _check_config(folder / CONFIG_NAME, config)
    found = _find_checkpoint_in_dir(folder)
    if found is None:
        raise CheckpointError(
            f"{folder}: holds no checkpoint (*.safetensors, *.bin or *.pth) next to {CONFIG_NAME}"
        )
    resolved = folder.resolve()
    return Source(
        f"{LOCAL_DIR_PREFIX}{resolved}", resolved.name, config, file=Path(found), folder=resolved
    )


def _from_hub(model: str) -> Source:
    label = model.removeprefix(HF_HUB_PREFIX)
    try:
        with quick_to_fail():
            config = open_clip.get_model_config(model) or {}
    except Exception as error:  # the hub client's errors share no base
        raise CheckpointError(
            f"{model}: its {CONFIG_NAME} can neither be downloaded nor found in the cache; "
            "download the repository on a machine with network and pass `local-dir:/FOLDER` "
            f"({brief(error, 160)})"
        ) from error
    return Source(model, label, config, downloads=True)


def _register(path: Path) -> str:
    """Register a JSON model configuration with OpenCLIP under its file's stem."""
    _check_config(path, read_json(path))
    open_clip.add_model_config(path.resolve())
    return path.stem


def _check_config(path: Path, config: dict[str, Any]) -> None:
    missing = [key for key in _CONFIG_KEYS if key not in config]
    if missing:
        raise CheckpointError(
            f"{path}: not an OpenCLIP model configuration: {', '.join(missing)} missing"
        )


def _unknown_name(model: str) -> str:
    names = {name.lower(): name for name in open_clip.list_models()}
    near = [names[match] for match in get_close_matches(model.lower(), names, 5, 0.6)]
    hint = f"; did you mean {', '.join(near)}?" if near else "."
    return (
        f"{model}: OpenCLIP has no model of that name{hint} Give a folder or a JSON model "
        "configuration instead; `make export ARGS=--list` shows all names"
    )


def _unknown_tag(name: str, pretrained: str) -> str:
    tags = open_clip.list_pretrained_tags_by_model(name)
    known = f"{name} has the tags {', '.join(tags)}" if tags else f"{name} has no tags"
    return f"--pretrained {pretrained}: neither a tag nor a file; {known}"


def offered() -> list[tuple[str, list[str]]]:
    """List every architecture of OpenCLIP with the tags of its pretrained weights."""
    return [
        (name, open_clip.list_pretrained_tags_by_model(name)) for name in open_clip.list_models()
    ]
