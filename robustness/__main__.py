"""`make robustness`: measures how noise, preprocessing faults and text changes move vectors.

Reports cosine to the unchanged item, kept top labels and accuracy for each change at each strength,
with the models side by side, using only the API. Starts its own Triton and gateways unless --url is
given. OPENCLIP_API_KEY holds the key, if the service needs one. Writes robustness.benchmark.json,
robustness.md and plots.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from openclip_triton.client import Client
from openclip_triton.errors import ClientError

from benchmarks import program
from benchmarks.reporting.results import SUFFIX, Row, collect
from benchmarks.reporting.tables import markdown
from benchmarks.systems import services
from benchmarks.systems.published import find, manifests
from benchmarks.traffic.errors import BenchmarkError
from robustness import drift, perturbations, pictures, plots, service, texts
from robustness.figures import ADVERSARIAL, DRIFT, FIT, GREY, PARTS, PIXELS, TEXT
from robustness.measure import Measurement
from robustness.page import NAME, page
from robustness.pictures import Pictures
from robustness.service import Subject

FAST = {"GATEWAY_PREPROCESSING": "fast"}
UNITS = texts.UNITS | {
    each.name: each.unit for each in (*perturbations.GREYS, *perturbations.NOISES)
}
SHOWN = 3  # faults


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write, or recognise a fault; return the exit code."""
    given = _parser().parse_args(arguments)
    names = given.model.split(",") if given.model else [None]
    try:
        (_recognise if given.recognise else _measure)(given, names)
    except ClientError as error:
        raise BenchmarkError(f"the service: {error}") from error
    return 0


def _measure(given: argparse.Namespace, names: Sequence[str | None]) -> None:
    rows: list[Row] = []
    shown: list[plots.Shown] = []
    for name in names:
        with _subject(given, name) as (subject, inputs):
            run = Measurement(subject, inputs, given.seed, given.budget)
            for part in given.parts:
                print(f"{subject.model.id}: {part}", flush=True)
                rows += run.rows(part)
                results = collect(NAME, None, vars(given) | {"measured_on": str(inputs)}, rows)
                results.write(given.output / f"{NAME}{SUFFIX}")
                (given.output / f"{NAME}.md").write_text(f"{page(results)}\n")
            shown += run.shown
    parts = {part: [row for row in rows if row.labels["part"] == part] for part in (*PARTS, FIT)}
    for part in given.parts:
        path = given.output / f"{NAME}-{part}.png"
        if part in (GREY, PIXELS, TEXT):
            plots.curves(parts[part], UNITS, path, parts[FIT] if part == GREY else ())
        elif part == DRIFT:
            plots.costs(parts[DRIFT], path)
        elif part == ADVERSARIAL:
            plots.attacks(shown, path)
    print(f"Written to {given.output}: {NAME}{SUFFIX}, {NAME}.md and plots")


def _recognise(given: argparse.Namespace, names: Sequence[str | None]) -> None:
    seen = _seen(given.recognise)
    for name in names:
        with _subject(given, name) as (subject, inputs):
            matches = drift.recognise(seen, drift.vectors(subject, inputs.files))
        lines = [
            [match.fault, f"{match.distance:.6f}", f"{match.cosine:.6f}"]
            for match in matches[:SHOWN]
        ]
        print(f"{subject.model.id}: most likely {matches[0].fault}\n")
        print(markdown(["fault", "distance from the observation", "its median cosine"], lines))


def _seen(value: str) -> np.ndarray:
    """A number, or the array in a file.

    Raises:
        BenchmarkError: The value is neither.
    """
    try:
        return np.asarray(
            np.load(value, allow_pickle=False) if value.endswith(".npy") else float(value),
            np.float64,
        )
    except (OSError, ValueError, EOFError) as error:
        raise BenchmarkError(f"--recognise {value}: give a number or a .npy file") from error


@contextmanager
def _subject(given: argparse.Namespace, name: str | None) -> Iterator[tuple[Subject, Pictures]]:
    """A model behind a running service, and its inputs."""
    with ExitStack() as stack:
        fast = None
        if given.url:
            key = os.environ.get("OPENCLIP_API_KEY")
            client = stack.enter_context(Client(given.url, api_key=key, tls=given.tls))
        else:
            name = find(given.repository, name)["id"]
            triton = stack.enter_context(services.triton(given.repository, name))
            gateways = [
                stack.enter_context(services.gateway(given.repository, name, triton, settings))
                for settings in ({}, FAST)
            ]
            client, fast = (stack.enter_context(Client(each.target.grpc)) for each in gateways)
        model = service.find(client, name)
        inputs = (
            pictures.read(given.images, given.count, given.seed)
            if given.images
            else pictures.drawn(given.count, given.seed, model.image_size)
        )
        published = manifests(given.repository).values()
        rules = service.preprocessing(client, model, published, inputs.files)
        yield Subject(client, model, rules, fast), inputs


def _parser() -> argparse.ArgumentParser:
    made = program.parser(NAME, __doc__)
    made.prog = "python -m robustness"
    program.add_model(made)
    add = made.add_argument
    add("--url", metavar="HOST:PORT", help="gRPC address of a running service to measure instead")
    add("--tls", action="store_true", help="encrypt the connection to it")
    add("--images", type=Path, metavar="DIR",
        help="pictures, in folders named for classes or in one (default: scenes)")  # fmt: skip
    add("--count", type=_two_or_more, default=96, metavar="N",
        help="number of pictures, evenly spaced (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N",
        help="of random choices (default: %(default)s)")  # fmt: skip
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
        help=f"of {', '.join(PARTS)} (default: all)")  # fmt: skip
    add("--budget", type=int, default=3000, metavar="N",
        help="most pictures to embed per adversarial search (default: %(default)s)")  # fmt: skip
    add("--recognise", metavar="COSINE|FILE.npy",
        help="instead, name the fault of a pipeline from the median cosine of its vectors to the "
        "service's, from the cosine of each picture of --images, or from the vectors")  # fmt: skip
    add("--output", type=Path, default=Path("reports/robustness"), metavar="DIR",
        help="folder for the files that are written (default: %(default)s)")  # fmt: skip
    return made


def _two_or_more(text: str) -> int:
    if int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text}: give two or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(program.run(main))
