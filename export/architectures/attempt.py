"""One try: an export of a configuration, in a process of its own."""

import json
import logging
import multiprocessing
import os
import resource
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch

from export.architectures.cut import shorten, shorten_config
from export.architectures.stand_ins import write_stand_ins
from export.architectures.tried import Tried, untried
from export.command.pipeline import text_graphs
from export.errors import ExportError
from export.gate.evaluation import EvaluationSet
from export.gate.measurement import evaluate
from export.gate.reference import prepare, references
from export.gate.runners import onnx_runner, text_runners
from export.gate.samples import make_pictures
from export.gate.thresholds import DEFAULT_THRESHOLDS, failures
from export.publish.job import Options
from export.publish.progress import Progress
from export.source import graph, tracing
from export.source.checkpoint import load_checkpoint
from export.source.tokenizer import check_tokenizer, write_tokenizer
from gateway.models.manifest import PIXELS

ITEMS = 2  # pictures, and the largest batch
TEXTS = ("a photo of two small red cars", "", "a cat " * 100)
POLL_S = 0.2


def try_bounded(name: str, gigabytes: float, seconds: float, *, cut: bool) -> Tried:
    """Try a configuration in a process of its own, and stop it at a bound."""
    with tempfile.TemporaryDirectory(prefix="architecture-") as scratch:
        part = Path(scratch, "tried")
        replace(untried(name), cut=cut, failure=None).write(part)
        process = multiprocessing.get_context("fork").Process(target=try_export, args=(part,))
        process.start()
        end, why = time.monotonic() + seconds, None
        while process.is_alive() and why is None:
            process.join(POLL_S)
            if _resident(process.pid) > gigabytes * 1e9:
                why = f"stopped: it takes over {gigabytes:g} GB of memory; give more by --gigabytes"
            elif time.monotonic() > end:
                why = f"stopped: it takes over {seconds:g} s; give more by --seconds"
        if why is not None:
            process.kill()
        process.join()
        if why is None and process.exitcode:
            why = f"ended with exit code {process.exitcode}; try it alone, which shows why"
        tried = Tried.read(part)
    return replace(tried, failure=why) if why else tried


def _resident(pid: int | None) -> int:
    """Memory of a process in bytes; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def try_export(part: Path) -> None:
    """Try a configuration, and write a `Tried` in place of the one that a file begins with."""
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    tried, folder = Tried.read(part), part.parent
    config = open_clip.get_model_config(tried.name)
    try:
        tokenizer, text_config = write_stand_ins(config["text_cfg"], folder)
        tried = replace(tried, parameters=_parameters(tried.name, config, text_config))
        tried.write(part)
        if tried.cut:
            shorten_config(config, text_config)
        path = folder / f"{tried.name}.json"
        path.write_text(json.dumps(config))
        tried = _measured(tried, path, tokenizer, text_config)
    except ExportError as error:
        tried = replace(tried, failure=" ".join(str(error).split()))
    tried.write(part)


def _parameters(name: str, config: dict[str, Any], text_config: Path | None) -> int:
    """Count the parameters of the whole model, without memory for them."""
    changes = {}
    if text_config is not None:
        here = {"hf_model_name": str(text_config), "hf_model_pretrained": False}
        changes["text_cfg"] = config["text_cfg"] | here
    with torch.device("meta"):
        model = open_clip.create_model(name, device="meta", pretrained_text=False, **changes)
    return sum(each.numel() for each in model.parameters())


def _measured(
    tried: Tried, config: Path, tokenizer: Path | None, text_config: Path | None
) -> Tried:
    checkpoint = load_checkpoint(str(config), None, tokenizer, text_config)
    if tried.cut:
        shorten(checkpoint.model)
    folder, rules = config.parent, checkpoint.preprocessing
    dataset = EvaluationSet(tuple(make_pictures(rules.image_size)[:ITEMS]), TEXTS)
    spec = write_tokenizer(checkpoint.tokenizer, folder / "tokenizer.json")
    check_tokenizer(checkpoint.tokenizer, spec, folder, list(TEXTS))
    image = tracing.image_graph(checkpoint)
    graph.save(image.proto, folder / "image.onnx", tried.name)
    text = text_graphs(Options(tried.name, folder), checkpoint, spec, "onnxruntime", Progress())
    saved: dict[int, Path] = {}  # by graph
    files: dict[int, Path] = {}
    for length, made in text.by_length.items():
        if id(made) not in saved:
            saved[id(made)] = folder / f"text-{length}.onnx"
            graph.save(made.proto, saved[id(made)], tried.name)
        files[length] = saved[id(made)]
    truth, inputs = references(checkpoint, dataset), prepare(dataset, rules, spec, folder)
    lengths = () if text.packed else tuple(text.by_length)
    del checkpoint, image, text, made
    run_image = onnx_runner(folder / "image.onnx", PIXELS)
    measured = evaluate(run_image, text_runners(files), inputs, truth, dataset, ITEMS).measured
    missed = failures(measured, DEFAULT_THRESHOLDS["fp32"])
    return replace(
        tried, image=measured.image.min_cosine, text=measured.text.min_cosine, lengths=lengths,
        failure="; ".join(missed) or None,
    )  # fmt: skip
