import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from export.command.pipeline import export_model
from export.publish.job import Options
from export.publish.pbtxt import Serving
from export.publish.progress import Progress
from gateway.models.manifest import Manifest
from tests.export import ahead, graphs, models
from tests.export.traces import Traces

KINDS = (
    "vit", "quickgelu", "resnet", "timm", "mixer", "coca", "siglip", "siglip2", "hf_text",
)  # fmt: skip

Exported = tuple[Manifest, Path]


@pytest.fixture(scope="session")
def traces(pytestconfig: pytest.Config) -> Path:
    """Folder of the graphs that torch's exporter has made."""
    return pytestconfig.cache.mkdir("traces")


@pytest.fixture(scope="session", autouse=True)
def _each_traced_once(traces: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", Traces(traces).export)
        # Each trace would read the sources of all operators again.
        registry = functools.cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(registry))
        yield


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def model_of(shelf: Path) -> Callable[[str], str]:
    """The `MODEL` argument for each kind of model."""

    def make(kind: str) -> str:
        if kind in ("siglip", "siglip2"):
            folder = models.save_tokenizer(shelf / f"{kind}-folder")
            content = getattr(models, kind)(str(folder))
            config = models.write_config(shelf, f"tiny-{kind}", content)
            rules = {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}
            return f"local-dir:{models.save_folder(folder, config, rules)}"
        if kind == "hf_text":
            folder = models.save_hf_text(shelf / "bert")
            return str(models.write_config(shelf, "tiny-hf", models.hf_text(str(folder))))
        return str(models.write_config(shelf, f"tiny-{kind}", getattr(models, kind)()))

    return make


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    """TensorRT-RTX, which builds plans ahead of time, without a GPU."""
    return ahead.rtx()


@pytest.fixture(scope="session")
def encoders(model_of: Callable[[str], str]) -> Callable[[str], dict[str, graphs.Encoder]]:
    """Both encoders of each kind of model, with input; tests leave them as they are."""
    return lambda kind: graphs.trace(model_of(kind))


@pytest.fixture(scope="session")
def exported(model_of: Callable[[str], str], shelf: Path) -> Callable[[str], Exported]:
    """Export a kind of model once for all tests."""
    done: dict[str, Exported] = {}

    def export(kind: str) -> Exported:
        if kind not in done:
            options = Options(
                model=model_of(kind),
                repository=shelf / f"repository-{kind}",
                token_lengths=(8, 16),
                serving=Serving(max_batch=4),
            )
            [outcome] = export_model(options, Progress())
            assert outcome.manifest is not None
            done[kind] = (outcome.manifest, options.repository)
        return done[kind]

    return export
