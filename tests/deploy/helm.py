"""The Helm chart, rendered and linted by Helm's own engine: `python -m tests.deploy.helm` lints."""

import sys
from pathlib import Path
from typing import Any

import helm_python
import yaml

from tests.conftest import ROOT

CHART = ROOT / "deploy" / "helm" / "openclip-triton"
NAMESPACE = "openclip"
VALUES: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": yaml.safe_load((CHART / "values-gpu.yaml").read_text()),
}  # by the overlay that they are for

Resource = dict[str, Any]


def rendered(values: dict[str, Any], chart: Path = CHART) -> list[Resource]:
    """What `helm install` applies; a packed chart is read as one.

    Raises:
        helm_python.HelmError: The values are wrong, or cannot be rendered.
    """
    load = helm_python.Chart.load if chart.is_dir() else helm_python.Chart.load_archive
    with load(chart if chart.is_dir() else chart.read_bytes()) as loaded:
        loaded.validate_schema(loaded.merge_values(values))
        files = loaded.render(values, name="openclip", namespace=NAMESPACE)
    return [each for text in files.values() for each in yaml.safe_load_all(text) if each]


def problems() -> list[str]:
    """What `helm lint --strict` says, but for the icon that the chart does not have."""
    return [
        f"{overlay}: {message['path']}: {message['error']}"
        for overlay, values in VALUES.items()
        for message in helm_python.lint(CHART, values, strict=True)["messages"]
        if message["error"] != "icon is recommended"
    ]


if __name__ == "__main__":
    sys.exit("\n".join(problems()) or None)
