"""A TensorRT model pulled where another GPU or TensorRT is: its plans are built there."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.__main__ import main
from export.demo.model import CHECKPOINT, CONFIG
from export.publish.leftovers import encoders_of
from export.tensorrt import compatibility
from export.tensorrt.compatibility import PlanPlatform, check_repository, platform_of, read_platform
from export.tensorrt.errors import NoGpuError, TensorRtMissingError, WrongEngineError
from export.tensorrt.gpus import Gpu
from export.transfer import index, plans
from export.transfer.pull import pull
from export.transfer.push import push
from gateway.models.manifest import Manifest, file_sha256, read_repository
from tests.export.ahead import L4, Staged, rtx

ID = "demo.tensorrt"
BLACKWELL = Gpu("NVIDIA RTX PRO 6000", "12.0")
EXPORT = [str(CONFIG), "--pretrained", str(CHECKPOINT), "--id", "demo", "--max-batch", "4"]
EXPORT += ["--runtime", "tensorrt", "--token-lengths", "16,full"]


def ignore(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the demo, whose plans were built on an L4."""
    folder = tmp_path_factory.mktemp("l4")
    with pytest.MonkeyPatch.context() as patch:
        Staged(patch, folder)
        words = ["--repository", str(folder / "models"), "--report", str(folder / "report")]
        assert main([*EXPORT, *words]) == 0
    push(folder / "models", ID, str(folder / "place"), ignore)
    yield folder / "place"
    shutil.rmtree(folder)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


class Machine:
    """The GPU and the TensorRT of this machine."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def have(self, gpu: Gpu, version: str | None = None) -> PlanPlatform:
        """Build ahead of time for this GPU, and run what was built for it."""
        ahead = platform_of(rtx(), gpu.compute_capability)
        built = PlanPlatform(ahead.flavour, version or ahead.version, gpu.compute_capability, None)
        here = PlanPlatform(built.flavour, built.version, built.compute_capability, gpu.name)
        self._patch.setattr(plans, "tensorrt_here", lambda: (rtx(), built))
        self._patch.setattr(plans, "platforms_here", lambda: (here,))
        self._patch.setattr(plans, "find_gpus", lambda: (gpu,))
        return here


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def plan_files(root: Path, manifest: Manifest) -> list[Path]:
    return [root / name / str(manifest.version) / "model.plan" for name in encoders_of(manifest)]


def assert_whole(root: Path, here: PlanPlatform) -> None:
    """Every file has its hash, and every plan runs here."""
    manifest = read_repository(root)[ID]
    assert {name: file_sha256(root / name) for name in manifest.files} == manifest.files
    assert len(manifest.triton.text) == 2
    assert check_repository(root, [here]) == []
    assert all(path.stat().st_size > 100_000 for path in plan_files(root, manifest))


def test_plans_for_this_machine_are_copied(place: Path, root: Path, machine: Machine) -> None:
    here, said = machine.have(L4), list[str]()
    manifest, _ = pull(root, str(place), None, said.append)
    pushed = index.read_index((place / index.NAME).read_bytes(), "place").manifest
    assert manifest == pushed
    assert_whole(root, here)
    assert not [line for line in said if "building" in line]


def test_plans_for_another_gpu_are_built_and_not_copied(
    place: Path, root: Path, machine: Machine
) -> None:
    here, said = machine.have(BLACKWELL), list[str]()
    manifest, new = pull(root, str(place), None, said.append)
    assert new
    assert_whole(root, here)
    pushed = index.read_index((place / index.NAME).read_bytes(), "place").manifest
    for path in plan_files(root, manifest):
        name = str(path.relative_to(root))
        assert manifest.files[name] != pushed.files[name]
        assert read_platform(path).compute_capability == "12.0"
    assert not [line for line in said if "model.plan: " in line and "building" not in line]
    assert len([line for line in said if "building for TensorRT-RTX" in line]) == 3
    assert pull(root, str(place), None, ignore) == (manifest, False)


def test_a_model_with_plans_built_here_travels_on(
    place: Path, root: Path, machine: Machine, tmp_path: Path
) -> None:
    machine.have(BLACKWELL)
    manifest, _ = pull(root, str(place), None, ignore)
    push(root, ID, str(tmp_path / "place"), ignore)
    here = machine.have(L4)
    pull(tmp_path / "other", str(tmp_path / "place"), None, ignore)
    assert_whole(tmp_path / "other", here)
    assert plans.same_model(read_repository(tmp_path / "other")[ID], manifest)


def test_after_an_update_of_tensorrt_a_pull_builds_anew(
    place: Path, root: Path, machine: Machine
) -> None:
    machine.have(L4)
    pull(root, str(place), None, ignore)
    here = machine.have(L4, "99.1.0.0")
    manifest, new = pull(root, str(place), None, ignore)
    assert new
    assert manifest.version == 2
    assert_whole(root, here)


def test_a_plan_that_does_not_say_for_which_gpu_it_is_comes_anew(
    place: Path, root: Path, machine: Machine
) -> None:
    here = machine.have(L4)
    manifest, _ = pull(root, str(place), None, ignore)
    damaged = plan_files(root, manifest)[0]
    damaged.with_name("model.plan.json").write_text("{")
    manifest, new = pull(root, str(place), None, ignore)
    assert (new, manifest.version) == (True, 2)
    assert_whole(root, here)


def refused(error: type[Exception], place: Path, root: Path) -> str:
    said = list[str]()
    with pytest.raises(error) as refusal:
        pull(root, str(place), None, said.append)
    assert all("plan.json" in line for line in said)  # a few bytes are fetched
    assert not [each for each in root.iterdir() if each.name != ".export.lock"]
    return str(refusal.value)


def test_without_a_gpu_it_is_refused(
    place: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compatibility, "library_version", lambda _: "10.13.3.9")
    said = refused(NoGpuError, place, root)
    assert f"{ID}.image/1/model.plan: built for TensorRT-RTX 1.7.1.116 on NVIDIA L4" in said
    assert "no NVIDIA driver" in said
    assert "--gpus all" in said
    assert "in the image export-gpu" in said


def test_without_tensorrt_it_is_refused(place: Path, root: Path) -> None:
    said = refused(TensorRtMissingError, place, root)
    assert "on NVIDIA L4 (compute capability 8.9), but no TensorRT library here" in said
    assert "in the image export-gpu" in said


def test_without_a_builder_it_is_refused(
    place: Path, root: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine.have(BLACKWELL)

    def none() -> None:
        raise TensorRtMissingError("TensorRT's Python module cannot be imported: run this in ...")

    monkeypatch.setattr(plans, "tensorrt_here", none)
    said = refused(WrongEngineError, place, root)
    assert f"on NVIDIA L4 (compute capability 8.9), but here is {here}" in said
    assert "no plan that runs here can be built: TensorRT's Python module cannot be" in said


def test_a_builder_of_another_version_than_tritons_is_refused(
    place: Path, root: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine.have(BLACKWELL)
    other = PlanPlatform(here.flavour, "99.1.0.0", here.compute_capability, here.gpu)
    monkeypatch.setattr(plans, "platforms_here", lambda: (other,))
    assert f"but here is {other}" in refused(WrongEngineError, place, root)


def test_fp8_on_a_gpu_without_it_is_refused(
    place: Path, root: Path, machine: Machine, tmp_path: Path
) -> None:
    edited = Path(shutil.copytree(place, tmp_path / "edited"))
    content = json.loads((edited / index.NAME).read_text())
    content["manifest"]["precision"] = "fp8"
    (edited / index.NAME).write_text(json.dumps(content))
    machine.have(Gpu("NVIDIA A10", "8.6"))
    assert "FP8 needs a GPU of compute capability 8.9 or later" in refused(
        WrongEngineError, edited, root
    )
