"""The secret for Triton: its file is checked, and read anew for each use, in a thread."""

import threading
from pathlib import Path

import pytest

from gateway.inference import secret
from gateway.inference.secret import METADATA, Secret, SecretError

VALUE = "0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(VALUE + "\n")
    return path


def test_a_replaced_file_is_used(path: Path) -> None:
    held = Secret(path)
    assert held.read() == ((METADATA, VALUE),)
    path.write_text(VALUE[::-1])
    assert held.read() == ((METADATA, VALUE[::-1]),)


async def test_the_event_loop_does_not_wait_for_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def read_file(path: Path) -> bytes:
        threads.append(threading.get_ident())
        return path.read_bytes()

    held = Secret(path)
    monkeypatch.setattr(secret, "read_file", read_file)
    await held.metadata()
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


@pytest.mark.parametrize("content", ["", "short", f"{VALUE}!", "\xe9" * 20, VALUE * 17])
def test_what_is_no_secret_is_refused_and_not_quoted(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(SecretError) as caught:
        Secret(path)
    assert str(caught.value).startswith("GATEWAY_TRITON_SECRET_FILE: ")
    assert not content or content not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="No such file"):
        Secret(tmp_path / "none")
