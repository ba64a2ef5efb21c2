"""An export environment with PyTorch for CPUs: uv itself, and indexes of empty wheels."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

LIST = ("filelock==1.0", "nvidia-cublas==1.0", "nvidia-pytriton==1.0", "nvidia-nvtx==1.0")
TORCH = ("torch==1.0", "torchvision==1.0", "triton==1.0", "cuda-toolkit==1.0", "tritonclient==1.0")


def wheel(index: Path, name: str, version: str) -> str:
    """Write an empty wheel into an index; return its SHA-256."""
    folder, safe = index / name, name.replace("-", "_")
    folder.mkdir(parents=True)
    path = folder / f"{safe}-{version}-py3-none-any.whl"
    info = f"{safe}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as made:
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        made.writestr(f"{info}/METADATA", f"{head}Requires-Dist: nvidia-cublas\n")
        made.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{path.name}">{path.name}</a>')
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pytorch_for_cpus_replaces_all_that_is_for_cuda(tmp_path: Path) -> None:
    lines = ["# written by `make lock`"]
    for each in (*LIST, *TORCH):
        digest = wheel(tmp_path / "usual", *each.split("=="))
        lines.append(f"{each} ; sys_platform == 'linux' \\\n    --hash=sha256:{digest}")
    for name in ("torch", "torchvision"):
        wheel(tmp_path / "cpu", name, "1.0+cpu")
    checkout = tmp_path / "checkout"
    (checkout / ".venv/uv/bin").mkdir(parents=True)
    (checkout / "requirements").mkdir()
    shutil.copy(ROOT / "Makefile", checkout)
    shutil.copy(ROOT / "requirements/cpu.awk", checkout / "requirements")
    (checkout / "requirements/uv.txt").touch()
    (checkout / "requirements/export.txt").write_text("\n".join(lines) + "\n")
    (checkout / ".venv/uv/bin/uv").write_text(f'#!/bin/sh\nexec {ROOT}/.venv/uv/bin/uv "$@"\n')
    (checkout / ".venv/uv/bin/uv").chmod(0o755)
    ran = subprocess.run(
        ["make", ".venv/export/.ready", f"PYTHON={sys.executable}",
         f"TORCH_INDEX={(tmp_path / 'cpu').as_uri()}"],
        cwd=checkout, env={"PATH": "/usr/bin:/bin", "UV_NO_CONFIG": "1",
                           "UV_DEFAULT_INDEX": (tmp_path / "usual").as_uri(),
                           "UV_EXTRA_INDEX_URL": (tmp_path / "usual").as_uri(),
                           "UV_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "about 2 GB" in ran.stdout
    found = {each.stem for each in (checkout / ".venv/export").rglob("*.dist-info")}
    assert found == {
        "filelock-1.0", "nvidia_pytriton-1.0", "tritonclient-1.0", "torch-1.0+cpu",
        "torchvision-1.0+cpu",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["PRETRAINED=/no/such.safetensors"], "PRETRAINED=/no/such.safetensors: no such file"),
        (
            ["PRECISION=int8,fp8"],
            'PRECISION=fp8 needs a GPU that has FP8, and ARGS="--runtime tensorrt"',
        ),
    ],
)
def test_what_cannot_be_exported_costs_no_environment(
    wrong: list[str], said: str, tmp_path: Path
) -> None:
    for folder in ("requirements", ".venv/uv/bin", ".venv/serve/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (
        "requirements/uv.txt",
        "requirements/serve.txt",
        ".venv/uv/bin/uv",
        ".venv/serve/.ready",
    ):
        (tmp_path / name).touch()
    python = tmp_path / ".venv/serve/bin/python"
    python.write_text("#!/bin/sh\nexit 1\n")  # the model is not published
    python.chmod(0o755)
    ran = subprocess.run(
        ["make", "--no-print-directory", "exported", "MODEL=ViT-B-32", *wrong],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: {said}\n")
    assert ran.stdout == ""
    assert not (tmp_path / ".venv/export").exists()


def test_what_the_real_list_leaves_out() -> None:
    """A package that a new PyTorch for CUDA brings must not stay."""
    lines = (ROOT / "requirements/export.txt").read_text().splitlines()
    names = [line.split("==")[0] for line in lines if line[:1].isalpha()]
    left = [name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))]
    given = "\n".join(f"{name}==1" for name in names)
    ran = subprocess.run(
        ["awk", "-f", ROOT / "requirements" / "cpu.awk"],
        input=given, capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept = [name for name in left if f"{name}==1" in ran.stdout.split()]
    assert kept == ["nvidia-pytriton", "tritonclient"]
    assert len(left) > 15
