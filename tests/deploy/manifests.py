"""The Kubernetes files, and what Kubernetes' own schemas say of them.

Overlays are rendered where there is `kustomize` or `kubectl`; the base, and the files that are
applied by themselves, are read in any case.
"""

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu")
VERSION = "1.34"
# Their schemas are not Kubernetes' own.
OPERATORS = ("monitoring.coreos.com/", "keda.sh/", "ray.io/")

Resource = dict[str, Any]


def renderer() -> Sequence[str] | None:
    """The command that renders a folder; None where there is none."""
    for command in (("kustomize", "build"), ("kubectl", "kustomize")):
        if path := shutil.which(command[0]):
            return (path, command[1])
    return None


def rendered(overlay: str) -> list[Resource]:
    """What an overlay applies.

    Raises:
        RuntimeError: There is nothing to render it with.
        subprocess.CalledProcessError: It cannot be rendered.
    """
    command = renderer()
    if command is None:
        raise RuntimeError("neither kustomize nor kubectl is here")
    done = subprocess.run(
        [*command, str(FOLDER / "overlays" / overlay)], check=True, capture_output=True, text=True
    )
    return list(yaml.safe_load_all(done.stdout))


def base() -> list[Resource]:
    """The resources of the base, as they are written."""
    return _read(path for path in FOLDER.glob("base/*.yaml") if path.stem != "kustomization")


def apart() -> list[Resource]:
    """The resources that no overlay has, since they are not there all the time."""
    return _read(FOLDER.glob("*.yaml"))


def _read(files: Iterable[Path]) -> list[Resource]:
    return [each for path in sorted(files) for each in yaml.safe_load_all(path.read_text())]


def find(resources: list[Resource], kind: str, name: str) -> Resource:
    (found,) = [
        each for each in resources if each["kind"] == kind and each["metadata"]["name"] == name
    ]
    return found


def pods(job: Resource) -> Iterator[Resource]:
    """The pods of a RayJob, of the head and of each group of workers."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"]}
    groups |= {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for name, group in groups.items():
        metadata = {"name": f"{job['metadata']['name']}-{name}"}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata} | group["template"]


def problems(resources: Iterable[Resource]) -> list[str]:
    """One line for each resource that Kubernetes would refuse."""
    found = []
    for resource in resources:
        if resource["kind"] == "RayJob":
            found += problems(pods(resource))
        if resource["apiVersion"].startswith(OPERATORS):
            continue
        name = f"{resource['kind']} {resource['metadata']['name']}"
        try:
            kubernetes_validate.validate(resource, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{name}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError:
            found.append(f"{name}: Kubernetes {VERSION} has no such kind")
    return found
