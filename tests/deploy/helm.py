"""The Helm chart, rendered and linted by Helm's own engine: `python -m tests.deploy.helm` lints.

The engine is a library of Go, whose runtime takes part in the signals of its process: processes of
tests that had loaded it died of SIGSEGV minutes later. So it runs in processes of its own.
"""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "openclip-triton"
NAMESPACE = "openclip"
VALUES: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": yaml.safe_load((CHART / "values-gpu.yaml").read_text()),
}  # by the overlay that they are for

Resource = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")


class ChartError(Exception):
    """The values are wrong."""


def rendered(values: dict[str, Any], chart: Path = CHART) -> list[Resource]:
    """What `helm install` applies; a packed chart is read as one.

    Raises:
        ChartError: The values are wrong.
    """
    files = _apart(_rendered, values, chart)
    return [each for text in files for each in yaml.safe_load_all(text) if each]


def packed(folder: Path) -> Path:
    """Pack the chart into a file of this folder, and return its path."""
    return Path(_apart(_packed, folder))


def problems() -> list[str]:
    """What `helm lint --strict` says, but for the icon that the chart does not have."""
    return _apart(_problems)


def _apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *args, **kwargs).result()


def _rendered(values: dict[str, Any], chart: Path) -> list[str]:
    import helm_python

    load = helm_python.Chart.load if chart.is_dir() else helm_python.Chart.load_archive
    with load(chart if chart.is_dir() else chart.read_bytes()) as loaded:
        try:
            loaded.validate_schema(loaded.merge_values(values))
        except helm_python.HelmValuesError as error:
            raise ChartError(str(error)) from None
        return [*loaded.render(values, name="openclip", namespace=NAMESPACE).values()]


def _packed(folder: Path) -> str:
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        return str(chart.save(folder))


def _problems() -> list[str]:
    import helm_python

    return [
        f"{overlay}: {message['path']}: {message['error']}"
        for overlay, values in VALUES.items()
        for message in helm_python.lint(CHART, values, strict=True)["messages"]
        if message["error"] != "icon is recommended"
    ]


if __name__ == "__main__":
    sys.exit("\n".join(_problems()) or None)
