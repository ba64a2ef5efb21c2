"""The private folder of one launch, and the removal of everything a launch can leave behind.

The folder's name is the prefix of the launch's shared-memory regions and part of the command lines
of its tritonserver and stubs, so the name alone finds the leftovers of a killed launch. A lock
marks a running launch; the kernel drops it when launcher and guard have ended.
"""

import fcntl
import os
import shlex
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from server.runtime import STUB, Runtime

PREFIX = "openclip-triton-"
LOCK = "lock"
KILL_TIMEOUT = 10.0  # seconds; a killed process can linger while the kernel frees its memory
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (POSIX shared memory on Linux)
PROC = Path("/proc")
PACKAGE = Path(__file__).resolve().parent
BACKENDS = ("onnxruntime", "openvino")  # based on Triton's `python` backend

# Triton starts it as the stub: MODEL_FILE REGION SIZE GROWTH PARENT UTILS OFFSET NAME BACKEND. A
# load request may carry files or name another backend; both are code that would run. If this script
# just exited, the instance would count as one that died, so the real stub loads a model that
# refuses to load.
GUARDED_STUB = """\
#!/bin/sh
file=$1
shift
case "$file" in
    */../*) allowed= ;;
    {repository}/*) case "$8" in {backends}) allowed=yes ;; esac ;;
    *) allowed= ;;
esac
if [ -z "$allowed" ]; then
    file={refused}
    set -- "$1" "$2" "$3" "$4" "$5" "$6" "$7" DEFAULT
fi
exec {stub} "$file" "$@"
"""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A launch's folder and the descriptor of its lock."""

    path: Path
    lock: int

    @property
    def name(self) -> str:
        """The launch's unique name; prefix of its shared-memory regions."""
        return self.path.name

    @property
    def backends(self) -> Path:
        """The folder to give tritonserver as ``--backend-directory``."""
        return self.path / "backends"


def create(runtime: Runtime, repository: Path) -> RunDirectory:
    """Make a locked folder with Triton's ``python`` backend and those based on it.

    The backends load models from this model repository only.
    """
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    # Renamed only once locked: a folder with an unlocked lock file belongs to a dead launch.
    unnamed = path / f"{LOCK}.new"
    lock = os.open(unnamed, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(path / LOCK)
    run = RunDirectory(path, lock)
    python = run.backends / "python"
    python.mkdir(parents=True)
    # Copied: Triton refuses a backend library whose real path is outside the backend's folder.
    shutil.copyfile(runtime.python_backend / "libtriton_python.so", python / "libtriton_python.so")
    utils = "triton_python_backend_utils.py"
    (python / utils).symlink_to(runtime.python_backend / utils)
    _write_stub(python / STUB, runtime, run, repository)
    for name in BACKENDS:
        backend = run.backends / name
        backend.mkdir()
        (backend / "model.py").symlink_to(PACKAGE / "backends" / name / "model.py")
        # The stub ignores PYTHONPATH, but imports from the backend's folder.
        (backend / PACKAGE.name).symlink_to(PACKAGE)
    return run


def _write_stub(path: Path, runtime: Runtime, run: RunDirectory, repository: Path) -> None:
    names = {
        "repository": repository.resolve(),
        "refused": PACKAGE / "backends" / "refused" / "1" / "model.py",
        "stub": runtime.stub,
    }
    quoted = {key: shlex.quote(str(value)) for key, value in names.items()}
    backends = "|".join(shlex.quote(str(run.backends / name)) for name in BACKENDS)
    path.write_text(GUARDED_STUB.format(**quoted, backends=backends))
    path.chmod(0o755)


def sweep() -> list[str]:
    """Remove what dead launches of this user left behind; return their names."""
    removed = []
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if path.stat().st_uid != os.getuid():
                continue
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):  # removed or not locked yet; not ours
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            remove(path)
            removed.append(path.name)
        finally:
            os.close(lock)
    return removed


def remove(path: Path) -> None:
    """Kill the launch's remaining processes, then remove its shared memory and its folder."""
    deadline = time.monotonic() + KILL_TIMEOUT
    while _kill_processes(path.name) and time.monotonic() < deadline:
        time.sleep(0.02)
    for region in SHARED_MEMORY.glob(f"{path.name}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _kill_processes(name: str) -> int:
    """Send SIGKILL to every tritonserver and stub of the launch; return their number."""
    killed = 0
    for entry in PROC.glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if name in command and ("tritonserver" in command or STUB in command):
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is another user's
    return killed
