"""Stops a program at each of its changes of the file system."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """Stands for a process that is gone: nothing after it is run."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let a number of file system changes happen, then stop everything, clean-up too."""
    left = step

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*args, **kwargs)

        return call

    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))


def steps(act: Callable[[], object], monkeypatch: pytest.MonkeyPatch, step: int) -> bool:
    """Run `act` until it is killed at a step; whether it was."""
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        try:
            act()
        except Killed:
            return True
    return False
