"""`python -m export`: publishes an OpenCLIP model in a Triton model repository."""

import argparse
import logging
import os
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.command.arguments import parser, transfer_parser
from export.errors import ExportError

if TYPE_CHECKING:
    from export.publish.job import Options

REFUSED = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = _parsed(sys.argv[1:] if arguments is None else arguments)
    logging.disable(logging.ERROR)  # errors are reported below, in one line
    warnings.simplefilter("ignore")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads stall on a busy machine
    try:
        return _run(given)
    except ExportError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing more published\n")
        return 130


def _parsed(arguments: list[str]) -> argparse.Namespace:
    if arguments[:1] in (["push"], ["pull"]):
        return transfer_parser().parse_args(arguments)
    top = parser()
    given = top.parse_args(arguments, argparse.Namespace(action=None))
    if given.custom is not None:
        _check_custom(given, top)
    actions = (given.model or given.custom, given.remove, given.check_engines, given.list or None)
    of_model = given.published or given.gpu_inputs is not None
    if sum(each is not None for each in actions) != 1 or (of_model and actions[0] is None):
        top.error("give MODEL or --custom, or one of --list, --remove ID and --check-engines DIR")
    return given


def _check_custom(given: argparse.Namespace, top: argparse.ArgumentParser) -> None:
    if any((given.model, given.pretrained, given.tokenizer, given.text_config, given.published)):
        top.error(
            "--custom MODULE:FACTORY brings weights and tokenizer, and stands in place of MODEL"
        )


def _run(given: argparse.Namespace) -> int:
    if given.action == "push":
        return _push(given)
    if given.action == "pull":
        return _pull(given)
    if given.list:
        return _list()
    if given.remove is not None:
        return _remove(given)
    if given.check_engines is not None:
        return _check_engines(given.check_engines)
    if given.published:
        return _published(given)
    if given.gpu_inputs is not None:
        return _gpu_inputs(given)
    return _export(given)


def _published(given: argparse.Namespace) -> int:
    from export.publish.repository import find_published

    precisions = given.precision or ["fp32"]
    found = find_published(given.repository, given.model, given.pretrained, precisions)
    sys.stdout.write("".join(f"{each}\n" for each in found if each))
    return 0 if all(found) else 1


def _list() -> int:
    from export.source.spec import offered

    sys.stdout.write(
        "".join(f"{name}  {' '.join(tags)}".rstrip() + "\n" for name, tags in offered())
    )
    return 0


def _remove(given: argparse.Namespace) -> int:
    from export.publish.repository import remove

    ids = list(dict.fromkeys(given.remove))
    remove(given.repository, *ids)
    sys.stdout.write("".join(f"removed {each} from {given.repository}\n" for each in ids))
    return 0


def _push(given: argparse.Namespace) -> int:
    from export.transfer.push import push

    made = push(given.repository, given.id, given.place, _progress)
    size = sum({each.sha256: each.size for each in made.files.values()}.values())
    sys.stdout.write(f"pushed {given.id} to {given.place}: {size / 1e6:.1f} MB\n")
    return 0


def _pull(given: argparse.Namespace) -> int:
    from export.transfer.pull import pull

    for place in given.places:
        manifest, new = pull(given.repository, place, given.version, _progress)
        state = "pulled" if new else "there already:"
        sys.stdout.write(
            f"{state} {manifest.id} version {manifest.version} {manifest.fingerprint}\n"
        )
        sys.stdout.flush()
    return 0


def _progress(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _check_engines(root: Path) -> int:
    from export.tensorrt.compatibility import check_engines

    problems = check_engines(root)
    sys.stderr.write("".join(f"error: {problem}\n" for problem in problems))
    return 1 if problems else 0


def _gpu_inputs(given: argparse.Namespace) -> int:
    # imports torch, which takes seconds
    from export.command.gpu_inputs import write
    from export.publish.progress import Progress

    folder = write(_options(given), given.gpu_inputs, Progress())
    sys.stdout.write(f"written to {folder}\n")
    return 0


def _export(given: argparse.Namespace) -> int:
    # imports torch, which takes seconds
    from export.command.pipeline import export_model
    from export.command.summary import how_to_serve, summary, write_reports
    from export.publish.progress import Progress

    progress = Progress()
    outcomes = export_model(_options(given), progress)
    with progress.stage("writing the report"):
        report = write_reports(outcomes, given.report)
    for outcome in outcomes:
        sys.stdout.write(summary(outcome, given.repository))
    if report is not None:
        sys.stdout.write(f"report       {report}\n")
    if any(outcome.manifest is not None for outcome in outcomes):
        sys.stdout.write(how_to_serve(given.repository))
    refused = [outcome for outcome in outcomes if outcome.manifest is None]
    for outcome in refused:
        for failure in outcome.failures:
            sys.stderr.write(f"refused: {outcome.id}: {failure}; not published\n")
    return REFUSED if refused else 0


def _options(given: argparse.Namespace) -> "Options":
    from export.precision.variants import pairs
    from export.publish.job import Options
    from export.publish.pbtxt import Serving
    from gateway.models.gate import Thresholds

    known: dict[str, Any] = vars(given)
    known |= {
        "model": given.model or given.custom,
        "custom": given.custom is not None,
        "variants": pairs(given.precision, given.runtime),
        "samples": tuple(given.samples),
        "evaluate": tuple(given.evaluate),
        "thresholds": Thresholds(**{each.name: known[each.name] for each in fields(Thresholds)}),
        "serving": Serving(given.max_batch, given.device, given.instances, given.threads),
    }
    return Options(**{each.name: known[each.name] for each in fields(Options)})


if __name__ == "__main__":
    sys.exit(main())
