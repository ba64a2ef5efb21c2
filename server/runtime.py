"""Finds the files of the wheel, libpython, and the environment for tritonserver."""

import os
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from server.errors import RuntimeFilesError

WHEEL = "nvidia-pytriton"
STUB = "triton_python_backend_stub"
BACKEND_PACKAGES = ("numpy", "onnxruntime")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Runtime:
    """Absolute paths of the programs and libraries of Triton."""

    tritonserver: Path
    python_backend: Path  # folder of libtriton_python.so and triton_python_backend_utils.py
    stub: Path  # the process each model instance runs in, built for this Python version
    libraries: Path  # shared libraries of the wheel
    libpython: Path  # folder of libpython3.x.so.1.0

    def environment(self) -> dict[str, str]:
        """This process's environment, adapted for tritonserver and its stubs.

        The stub embeds Python: it finds the virtual environment through the first ``python3``
        on PATH, and PYTHONHOME would point it elsewhere.
        """
        env = {key: value for key, value in os.environ.items() if key != "PYTHONHOME"}
        paths = {
            "PATH": [str(Path(sys.executable).parent)],
            "LD_LIBRARY_PATH": [str(self.libraries), str(self.libpython)],
        }
        for key, first in paths.items():
            env[key] = os.pathsep.join([*first, *filter(None, [env.get(key)])])
        # From 1.29 on, ONNX Runtime's wheels report usage to Microsoft by default.
        env.setdefault("ORT_DISABLE_TELEMETRY", "1")
        return env


def find_runtime() -> Runtime:
    """Locate the runtime without importing ``pytriton``, whose dependencies are not installed.

    Raises:
        RuntimeFilesError: Something is missing; the message says how to get it.
    """
    for package in BACKEND_PACKAGES:
        if find_spec(package) is None:
            raise RuntimeFilesError(
                f"the Python package {package} is not installed in {sys.prefix}; the onnxruntime "
                f"backend needs it: pip install {package}"
            )
    package_folder = _wheel_folder()
    root = package_folder / "tritonserver"
    runtime = Runtime(
        tritonserver=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=_stub(root / "python_backend_stubs"),
        libraries=package_folder.parent / "nvidia_pytriton.libs",
        libpython=find_libpython(VERSION, _library_folders()),
    )
    for path in (runtime.tritonserver, runtime.python_backend, runtime.libraries):
        if not path.exists():
            raise RuntimeFilesError(
                f"{path} is missing from the wheel {WHEEL}; install the wheel again"
            )
    return runtime


def _wheel_folder() -> Path:
    spec = find_spec("pytriton")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise RuntimeFilesError(
            f"the wheel {WHEEL}, which holds tritonserver, is not installed in {sys.prefix}: "
            f"pip install --no-deps {WHEEL}"
        )
    return Path(folders[0])


def _stub(folder: Path) -> Path:
    stub = folder / VERSION / STUB
    if not stub.is_file():
        known = [path.parent.name for path in folder.glob(f"*/{STUB}")]
        known.sort(key=lambda version: [int(part) for part in version.split(".")])
        raise RuntimeFilesError(
            f"the wheel {WHEEL} has no Python backend for Python {VERSION}; "
            f"use one of: {', '.join(known) or 'none found'}"
        )
    return stub


def find_libpython(version: str, folders: list[Path]) -> Path:
    """Find the first of ``folders`` with the shared library of Python ``version`` ("3.11").

    Raises:
        RuntimeFilesError: None has it, as with a Python built without a shared library.
    """
    library = f"libpython{version}.so.1.0"
    for folder in folders:
        if (folder / library).is_file():
            return folder
    searched = ", ".join(map(str, folders))
    raise RuntimeFilesError(
        f"Triton's Python backend needs {library}, which is in none of: {searched}. "
        f"Debian and Ubuntu: apt-get install libpython{version}. "
        f"pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {version}. "
        f"Or use a Python that has it: uv python install {version}"
    )


def _library_folders() -> list[Path]:
    """Folders that may have this interpreter's own libpython.

    The interpreter's prefix comes first: relocatable builds (uv) record a LIBDIR of the machine
    that built them. Debian keeps the library under its multiarch name.
    """
    prefix = Path(sys.base_prefix)
    libdir = sysconfig.get_config_var("LIBDIR")
    multiarch = sysconfig.get_config_var("MULTIARCH")
    folders = [prefix / "lib", prefix / "lib64"]
    if libdir:
        folders.append(Path(libdir))
    if multiarch:
        folders += [folder / multiarch for folder in list(folders)]
    return list(dict.fromkeys(folders))
