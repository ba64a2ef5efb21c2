"""Loads any name, tag, file or folder that OpenCLIP can load."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.hf_configs import arch_dict
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from export.errors import CheckpointError, HubError, brief
from export.source.encoders import OpenClipModel
from export.source.hub import quick_to_fail
from export.source.origin import Origin, find_origin
from export.source.spec import Source, resolve
from gateway.models.manifest import Preprocessing

SEED = 0  # of random weights, so that the same command gives the same model


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded OpenCLIP model with its tokenizer, transform and parameters.

    Attributes:
        name: OpenCLIP's name of the architecture, or the name of the folder or hub repository.
        pretrained: Tag, file or hub name of the weights; None for random ones.
        model: `open_clip.CLIP`, `CustomTextCLIP`, `CoCa` or `CustomClip`, FP32, in evaluation mode.
        tokenizer: OpenCLIP's own; texts -> int64 [n, context_length].
        transform: OpenCLIP's or the user's own for evaluation; picture -> float32 [3, S, S].
        notices: Warnings for the user, in sentences.
        origin: Where the weights are from.
    """

    name: str
    pretrained: str | None
    model: OpenClipModel
    tokenizer: Callable[[list[str]], torch.Tensor]
    transform: Callable[[Image.Image], torch.Tensor]
    preprocessing: Preprocessing
    embedding_size: int
    logit_scale: float
    logit_bias: float | None
    notices: tuple[str, ...]
    origin: Origin = Origin()  # noqa: RUF009 (frozen)


def load_checkpoint(
    model: str,
    pretrained: str | None = None,
    tokenizer: Path | None = None,
    text_config: Path | None = None,
) -> Checkpoint:
    """Load a model as OpenCLIP does, in FP32 on the CPU.

    Args:
        model: An OpenCLIP name, `local-dir:/folder`, `hf-hub:org/name`, a folder, or a JSON
            model configuration.
        pretrained: A tag of that name, or a checkpoint file; None gives seeded random weights.
        tokenizer: A folder with a Hugging Face tokenizer, in place of the one that the model's
            configuration names.
        text_config: A folder with the Hugging Face configuration of the text encoder, likewise.

    Raises:
        CheckpointError: It cannot be loaded; the message says what to do.
    """
    source = resolve(model, pretrained)
    if text_config is not None:
        _check_text_config(source, text_config)
    with _network(source, tokenizer, text_config):
        tokenize = _load_tokenizer(source, tokenizer)
        loaded, notices = _load_model(source, text_config)
        origin = find_origin(source)
    rules = PreprocessCfg(**loaded.visual.preprocess_cfg)
    bias = getattr(loaded, "logit_bias", None)
    return Checkpoint(
        name=source.label,
        pretrained=source.weights_label,
        model=loaded,
        tokenizer=tokenize,
        transform=image_transform_v2(rules, is_train=False),
        preprocessing=preprocessing_of(rules, source.label),
        embedding_size=int(source.config["embed_dim"]),
        logit_scale=loaded.logit_scale.detach().exp().item(),
        logit_bias=None if bias is None else bias.detach().item(),
        notices=notices,
        origin=origin,
    )


def _check_text_config(source: Source, folder: Path) -> None:
    if not source.text_config.get("hf_model_name"):
        raise CheckpointError(
            f"--text-config {folder}: {source.label} has OpenCLIP's own text encoder, which needs "
            "no folder; leave the option out"
        )
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"--text-config {folder}: there is no config.json in it")


def _network(
    source: Source, tokenizer: Path | None, text_config: Path | None
) -> AbstractContextManager[None]:
    """Probe the hub only if the model needs a download."""
    named = source.text_config.get("hf_tokenizer_name")
    remote = named and not tokenizer and not source.folder and not Path(named).is_dir()
    hf_text = source.text_config.get("hf_model_name")
    remote = remote or (hf_text and not text_config and not Path(hf_text).is_dir())
    return quick_to_fail() if remote or source.downloads else nullcontext()


def _load_tokenizer(source: Source, folder: Path | None) -> Callable[[list[str]], torch.Tensor]:
    """Load OpenCLIP's tokenizer for the model, or wrap that of a local folder likewise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if folder is not None:
            return _local_tokenizer(source, folder)
        try:
            return open_clip.get_tokenizer(source.open_clip_name)  # type: ignore[no-any-return]
        except Exception as error:  # the hub client, transformers and tokenizers share no base
            named = source.text_config.get("hf_tokenizer_name", source.label)
            raise HubError(
                f"{source.label}: its tokenizer {named!r} can neither be downloaded nor found in "
                f"the cache; on a machine with network save it with "
                f"`AutoTokenizer.from_pretrained({named!r}).save_pretrained(DIR)`, copy DIR here "
                f"and pass `--tokenizer DIR` ({brief(error, 160)})"
            ) from error


def _local_tokenizer(source: Source, folder: Path) -> Callable[[list[str]], torch.Tensor]:
    if not folder.is_dir():
        raise CheckpointError(f"--tokenizer {folder}: no such folder")
    text = source.text_config
    if not text.get("hf_tokenizer_name"):
        raise CheckpointError(
            f"--tokenizer {folder}: {source.label} uses OpenCLIP's own tokenizer, which needs no "
            "folder; leave the option out"
        )
    try:
        return HFTokenizer(  # type: ignore[no-any-return]
            str(folder.resolve()),
            context_length=text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
            tokenizer_mode=text.get("tokenizer_mode"),
            **(text.get("tokenizer_kwargs") or {}),
        )
    except Exception as error:  # transformers raises OSError, ValueError, ImportError and more
        raise CheckpointError(
            f"--tokenizer {folder}: not a Hugging Face tokenizer: {brief(error)}"
        ) from error


def _load_model(source: Source, text_config: Path | None) -> tuple[OpenClipModel, tuple[str, ...]]:
    torch.manual_seed(SEED)
    changes: dict[str, Any] = {}
    if text_config is not None:
        here = {"hf_model_name": str(text_config.resolve()), "hf_model_pretrained": False}
        changes["text_cfg"] = source.text_config | here
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = open_clip.create_model(
                source.open_clip_name,
                source.pretrained,
                precision="fp32",
                pretrained_text=False,
                require_pretrained=source.has_weights,
                **changes,
            )
        except Exception as error:  # torch, pickle, safetensors and the hub client share no base
            raise _load_error(source, text_config, error) from error
    notices = [str(item.message) for item in caught if "QuickGELU mismatch" in str(item.message)]
    if not source.has_weights:
        notices.append(
            f"no --pretrained given: {source.label} has random weights (seed {SEED}); its vectors "
            "mean nothing"
        )
    return model.eval().float().requires_grad_(requires_grad=False), tuple(notices)


def _load_error(source: Source, text_config: Path | None, error: Exception) -> CheckpointError:
    if source.file is not None:
        return CheckpointError(
            f"{source.file}: cannot be loaded into {source.label}: {brief(error)}"
        )
    if source.downloads:
        return HubError(
            f"{source.label}: the weights {source.weights_label!r} can neither be downloaded nor "
            "found in the cache; download the checkpoint on a machine with network and pass "
            "`--pretrained FILE`, or a folder with `open_clip_config.json` and the weights as "
            f"`local-dir:/FOLDER` ({brief(error, 160)})"
        )
    hf_text = source.text_config.get("hf_model_name")
    if hf_text and not text_config and not Path(hf_text).is_dir():
        return HubError(
            f"{source.label}: the configuration of its text encoder, {hf_text!r}, can neither be "
            "downloaded nor found in the cache; on a machine with network save it with "
            f"`AutoConfig.from_pretrained({hf_text!r}).save_pretrained(DIR)`, copy DIR here and "
            f"pass `--text-config DIR` ({brief(error, 160)})"
        )
    if hf_text and isinstance(error, KeyError):
        return CheckpointError(
            f"{source.label}: OpenCLIP does not know text encoders of the kind {error}; it knows "
            f"{', '.join(sorted(arch_dict))}"
        )
    return CheckpointError(f"{source.label}: cannot be created: {brief(error)}")


def preprocessing_of(rules: PreprocessCfg, label: str) -> Preprocessing:
    """Describe OpenCLIP's rules for pictures in the terms of the manifest.

    Raises:
        CheckpointError: The pictures are not square.
    """
    size = rules.size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise CheckpointError(
            f"{label}: takes pictures of {width} x {height} pixels; only square ones are supported"
        )
    return Preprocessing(
        image_size=height,
        mean=tuple(rules.mean),
        std=tuple(rules.std),
        resize_mode=rules.resize_mode,
        interpolation="bilinear" if rules.interpolation == "bilinear" else "bicubic",
        fill_color=rules.fill_color,
    )
