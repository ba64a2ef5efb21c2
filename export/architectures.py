"""`python -m export.architectures`: tries to export every configuration of OpenCLIP.

Each has random weights and goes through the stages of an export in FP32, on two pictures and three
texts, in a process of its own with a bound on time and memory. The results are kept, so that a run
can be continued, and written as a table.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    M2M100Config,
    MT5Config,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from export.card.tables import NONE, table
from export.errors import ExportError
from export.gate.evaluation import EvaluationSet
from export.gate.measurement import evaluate
from export.gate.reference import prepare, references
from export.gate.runners import onnx_runner, text_runners
from export.gate.samples import make_pictures
from export.gate.thresholds import DEFAULT_THRESHOLDS, failures
from export.pipeline import text_graphs
from export.progress import Progress
from export.publish.job import Options
from export.source import graph, tracing
from export.source.checkpoint import load_checkpoint
from export.source.tokenizer import check_tokenizer, write_tokenizer
from gateway.models.manifest import PIXELS

PAGE = Path("docs/architectures.md")
RESULTS = Path("reports/architectures")
ITEMS = 2  # pictures, and the largest batch
TEXTS = ("a photo of two small red cars", "", "a cat " * 100)
BLOCKS = 2  # that --cut leaves of each row of equal blocks: of a stage, the first differs
STAGES = 4  # of timm's ConvNeXt and Swin
POLL_S = 0.2

_XLM_R = {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1}
_NLLB = {"vocab_size": 256206, "d_model": 1024}
_MT5 = {"vocab_size": 250112, "feed_forward_proj": "gated-gelu"}
# Text encoders on the hub, in their published sizes.
TEXT_CONFIGS: dict[str, Any] = {
    "roberta-base": RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    "xlm-roberta-base": XLMRobertaConfig(**_XLM_R),
    "xlm-roberta-large": XLMRobertaConfig(
        **_XLM_R, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
        intermediate_size=4096,
    ),
    "google/mt5-base": MT5Config(**_MT5, d_model=768, d_ff=2048, num_layers=12, num_heads=12),
    "google/mt5-xl": MT5Config(**_MT5, d_model=2048, d_ff=5120, num_layers=24, num_heads=32),
    "facebook/nllb-200-distilled-600M": M2M100Config(
        **_NLLB, encoder_layers=12, decoder_layers=12, encoder_ffn_dim=4096, decoder_ffn_dim=4096
    ),
    "facebook/nllb-200-distilled-1.3B": M2M100Config(
        **_NLLB, encoder_layers=24, decoder_layers=24, encoder_ffn_dim=8192, decoder_ffn_dim=8192
    ),
}  # fmt: skip
_LAYERS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers")


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one configuration.

    Attributes:
        name: OpenCLIP's.
        image_size: In pixels.
        context_length: In tokens.
        cut: Whether only `BLOCKS` blocks of each kind were tried.
        parameters: Of the whole model; None if it was not created.
        image: Lowest cosine of the image encoder to PyTorch; None if not measured.
        text: The same of the text encoder.
        lengths: Token lengths that text is served at; none where it is packed.
        failure: Why it was not exported.
    """

    name: str
    image_size: int
    context_length: int
    cut: bool = False
    parameters: int | None = None
    image: float | None = None
    text: float | None = None
    lengths: tuple[int, ...] = ()
    failure: str | None = None

    @property
    def outcome(self) -> str:
        """Whether it was exported, or why not."""
        return self.failure or ("exported, cut" if self.cut else "exported")

    @property
    def text_form(self) -> str:
        """How text is served."""
        if self.failure is not None:
            return NONE
        return ("packed", "full length", "fixed lengths")[min(len(self.lengths), 2)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = _parser().parse_args(arguments)
    given.results.mkdir(parents=True, exist_ok=True)
    known = open_clip.list_models()
    files = {name: given.results / f"{name}.json" for name in known}
    wanted = given.names or [name for name in known if not files[name].exists()]
    if wanted:  # what the first trace loads, each try has by its fork
        torch.set_num_threads(1)
        graph.trace(nn.Linear(2, 2), torch.zeros(2, 2), "features")
    for name in wanted:
        tried = try_bounded(name, given.gigabytes, given.seconds, cut=given.cut)
        files[name].write_text(json.dumps(asdict(tried)))
        sys.stderr.write(f"{name}: {tried.outcome}\n")
    found = {name: file for name, file in files.items() if file.exists()}
    results = {name: Tried(**json.loads(file.read_text())) for name, file in found.items()}
    given.page.write_text(page(results), encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.architectures", description=__doc__)
    add = parser.add_argument
    # fmt: off
    add("names", nargs="*", metavar="NAME", choices=[*open_clip.list_models(), []],
        help="configurations to try, again if need be (default: those without a result)")
    add("--cut", action="store_true",
        help=f"keep only {BLOCKS} of each row of equal blocks: the same kinds of layers")
    add("--gigabytes", type=float, default=9, metavar="GB",
        help="memory of one try (default: %(default)s)")
    add("--seconds", type=float, default=3600, metavar="S",
        help="time of one try (default: %(default)s)")
    add("--results", type=Path, default=RESULTS, metavar="DIR",
        help="keeps the results (default: %(default)s)")
    add("--page", type=Path, default=PAGE, metavar="FILE",
        help="where the table goes (default: %(default)s)")
    # fmt: on
    return parser


def try_bounded(name: str, gigabytes: float, seconds: float, *, cut: bool) -> Tried:
    """Try a configuration in a process of its own, and stop it at a bound."""
    with tempfile.TemporaryDirectory(prefix="architecture-") as scratch:
        part = Path(scratch, "tried")
        part.write_text(json.dumps(asdict(replace(_untried(name), cut=cut, failure=None))))
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
        tried = Tried(**json.loads(part.read_text()))
    return replace(tried, failure=why) if why else tried


def _untried(name: str) -> Tried:
    config = open_clip.get_model_config(name)
    context = config["text_cfg"].get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    return Tried(name, config["vision_cfg"]["image_size"], context, failure="not tried")


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
    tried, folder = Tried(**json.loads(part.read_text())), part.parent
    config = open_clip.get_model_config(tried.name)
    try:
        tokenizer, text_config = _stand_ins(config["text_cfg"], folder)
        tried = replace(tried, parameters=_parameters(tried.name, config, text_config))
        part.write_text(json.dumps(asdict(tried)))
        if tried.cut:
            shorten_config(config, text_config)
        path = folder / f"{tried.name}.json"
        path.write_text(json.dumps(config))
        tried = _measured(tried, path, tokenizer, text_config)
    except ExportError as error:
        tried = replace(tried, failure=" ".join(str(error).split()))
    part.write_text(json.dumps(asdict(tried)))


def _stand_ins(text: Mapping[str, Any], folder: Path) -> tuple[Path | None, Path | None]:
    """Write what the configuration reads from the hub; return `--tokenizer, --text-config`."""
    tokenizer = folder / "tokenizer" if text.get("hf_tokenizer_name") else None
    if tokenizer:
        _tokenizer().save_pretrained(tokenizer)
    name = text.get("hf_model_name")
    if name is None:
        return tokenizer, None
    if name not in TEXT_CONFIGS:
        raise ExportError(f"there is no stand-in here for the text encoder {name!r}")
    TEXT_CONFIGS[name].save_pretrained(folder / "text-config")
    return tokenizer, folder / "text-config"


def _tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of a few words."""
    words = ("<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "two", "small", "red", "cars")
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def _parameters(name: str, config: dict[str, Any], text_config: Path | None) -> int:
    """Count the parameters of the whole model, without memory for them."""
    changes = {}
    if text_config is not None:
        here = {"hf_model_name": str(text_config), "hf_model_pretrained": False}
        changes["text_cfg"] = config["text_cfg"] | here
    with torch.device("meta"):
        model = open_clip.create_model(name, device="meta", pretrained_text=False, **changes)
    return sum(each.numel() for each in model.parameters())


def shorten_config(config: dict[str, Any], text_config: Path | None) -> None:
    """Leave most blocks out before they take memory; `shorten` removes the rest."""
    for part in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        if isinstance(config.get(part, {}).get("layers"), int):
            config[part]["layers"] = BLOCKS
    if text_config is not None:
        file = text_config / "config.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {key: BLOCKS for key in _LAYERS if key in content}))
    create = timm.create_model

    def create_short(*given: Any, **options: Any) -> Any:  # noqa: ANN401 (as timm's)
        for fewer in ({"depth": BLOCKS}, {"depths": (BLOCKS,) * STAGES}):
            with contextlib.suppress(TypeError):  # this kind of encoder does not take it
                return create(*given, **fewer, **options)
        return create(*given, **options)

    timm.create_model = create_short


def shorten(model: nn.Module) -> int:
    """Remove from every row of blocks those that repeat the one before; return the number of rows.

    The first blocks stay, since the first of a stage may differ from the others.
    """
    rows = 0
    for row in list(model.modules()):
        if isinstance(row, nn.Sequential | nn.ModuleList):
            kinds = [repr(block) for block in row]
            repeated = [i for i in range(BLOCKS, len(kinds)) if kinds[i] == kinds[i - 1]]
            for index in reversed(repeated):
                del row[index]
            rows += bool(repeated)
    return rows


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
    files = {length: folder / f"text-{length}.onnx" for length in text.by_length}
    saved: dict[int, Path] = {}  # by graph
    for length, made in text.by_length.items():
        if id(made) in saved:
            files[length].hardlink_to(saved[id(made)])
        else:
            graph.save(made.proto, files[length], tried.name)
            saved[id(made)] = files[length]
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


def page(results: Mapping[str, Tried]) -> str:
    """Format the table from the results of all configurations, or of some."""
    listed = [results.get(name) or _untried(name) for name in open_clip.list_models()]
    exported = sum(each.failure is None for each in results.values())
    head = ["configuration", "outcome", "text", "parameters, M", "image, pixels",
            "context, tokens", "lowest cosine, image / text"]  # fmt: skip
    rows = [
        [f"`{each.name}`", each.outcome, each.text_form,
         f"{each.parameters / 1e6:.0f}" if each.parameters else NONE,
         str(each.image_size), str(each.context_length),
         NONE if each.image is None else f"{each.image:.6f} / {each.text:.6f}"]
        for each in listed
    ]  # fmt: skip
    text = _PAGE.format(
        version=open_clip.__version__, count=len(listed), tried=len(results), exported=exported,
        share=100 * exported / max(1, len(results)), blocks=BLOCKS,
        hub=", ".join(f"`{name}`" for name in sorted(TEXT_CONFIGS)),
    )  # fmt: skip
    return f"{text}\n{table(head, rows, left=3)}\n"


_PAGE = """\
# Architectures

`python -m export.architectures` writes this page. It tries every configuration of OpenCLIP, here
those of version {version}: of {count}, {tried} were tried, and {exported} of these ({share:.0f} %) can be exported.

A try is an export in FP32 with random weights, up to the comparison with PyTorch: tokenizer, both
graphs, ONNX Runtime, on two pictures and three texts. "exported": every cosine is 0.99999 or more.
"exported, cut": the same with {blocks} blocks of each kind, at the model's own widths, image size and
vocabulary; its other blocks repeat them. [models.md](models.md#results-for-each-family) has results of
whole and trained models, and of other precisions. Text is "packed", at "fixed lengths" or at its
"full length" only, as [models.md](models.md#text-lengths) explains.

Tokenizers that are on the hub have a stand-in of a few words here: an export checks the real one.
These text encoders, whose configurations are on the hub, have stand-ins of their published sizes:
{hub}.
"""  # noqa: E501 (its lines are filled in)


if __name__ == "__main__":
    sys.exit(main())
