"""Files that Triton needs, and what is said where one is missing."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from server import runtime
from server.errors import RuntimeFilesError


def test_the_wheel_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/before")
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    found = runtime.find_runtime()
    assert found.tritonserver.is_file()
    assert found.stub.parent.name == runtime.VERSION
    environment = found.environment()
    assert environment["PATH"].endswith(":/before")
    assert environment["LD_LIBRARY_PATH"].startswith(f"{found.libraries}:{found.libpython}")
    assert "PYTHONHOME" not in environment
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"


def test_libpython_is_taken_from_the_first_folder_that_has_it(tmp_path: Path) -> None:
    for name in ("empty", "debian", "other"):
        (tmp_path / name).mkdir()
    for name in ("debian", "other"):
        (tmp_path / name / "libpython3.11.so.1.0").touch()
    folders = [tmp_path / name for name in ("missing", "empty", "debian", "other")]
    assert runtime.find_libpython("3.11", folders) == tmp_path / "debian"


def test_a_python_without_a_shared_library_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFilesError, match=r"libpython3\.12\.so\.1\.0.*--enable-shared"):
        runtime.find_libpython("3.12", [tmp_path])


def test_a_python_without_a_stub_names_those_that_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "VERSION", "3.99")
    with pytest.raises(RuntimeFilesError, match=r"for Python 3\.99; use one of: 3\.8.*3\.11"):
        runtime.find_runtime()


@pytest.mark.parametrize("package", ["pytriton", "onnxruntime", "numpy"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    found = {name: find_spec(name) for name in ("pytriton", "onnxruntime", "numpy")}
    monkeypatch.setattr(runtime, "find_spec", (found | {package: None}).get)
    with pytest.raises(RuntimeFilesError, match=rf"{package}.* is not installed in .* pip install"):
        runtime.find_runtime()
