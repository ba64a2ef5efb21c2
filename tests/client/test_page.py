"""docs/client.md and docs/bulk.md are true: commands print what they show, programs run."""

import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import openclip_triton
import pytest

from tests.client.conftest import command, environment
from tests.conftest import ROOT, SAMPLES

PAGE = "".join((ROOT / "docs" / name).read_text() for name in ("client.md", "bulk.md"))
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SESSIONS = [text for kind, text in BLOCKS if kind == "console"]
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]
NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the pages' commands are run on."""
    shutil.copytree(SAMPLES, tmp_path / "photos")
    (tmp_path / "photos/notes.txt").write_text("notes")
    picture = (SAMPLES / "red-circle.png").read_bytes()
    (tmp_path / "photos/torn.png").write_bytes(picture[:300])
    (tmp_path / "captions.txt").write_text("a photo of a red circle.\na photo of a blue star.\n")
    return tmp_path


def without_rates(text: str) -> str:
    return " ".join(re.sub(r"\d+/s", "N/s", text).split())


@pytest.mark.parametrize("session", SESSIONS)
def test_commands_print_what_is_shown(real_address: str, folder: Path, session: str) -> None:
    line, _, shown = session.partition("\n")
    program, *arguments = shlex.split(line.removeprefix("$ "))
    assert program == "openclip-triton"
    ran = command(real_address, *arguments, cwd=folder)
    found = ran.stdout + ran.stderr
    assert NUMBER.sub("#", without_rates(found)) == NUMBER.sub("#", without_rates(shown))
    numbers = [float(number) for number in NUMBER.findall(shown)]
    # The last digits differ from one processor to the next.
    assert [float(n) for n in NUMBER.findall(found)] == pytest.approx(numbers, abs=2e-3)


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run(real_address: str, folder: Path, program: str) -> None:
    on_ray = "import ray" in program
    if on_ray and find_spec("ray") is None:
        pytest.skip("needs Ray, in an environment with the packages of .venv/dev and 'ray[data]'")
    ran = subprocess.run(
        [sys.executable, "-c", program.replace("127.0.0.1:8081", real_address)],
        cwd=folder, env=environment(real_address), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert on_ray or not ran.stderr  # Ray shows its progress there
    if "ClientError" in program:
        assert ran.stdout.split("\n")[1:3] == [
            "red circle",
            "InvalidRequest invalid_image input[0]",
        ]
    else:
        assert "photos/torn.png invalid_image" in ran.stdout


def test_there_is_something_to_run() -> None:
    assert (len(SESSIONS), len(PROGRAMS)) == (4, 4)


def test_every_option_is_on_the_page() -> None:
    for name in ("embed-text", "embed-images", "embed-pairs", "classify", "models"):
        shown = command("", name, "--help").stdout
        options = set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help"}
        assert {option for option in options if f"`{option}`" not in PAGE} == set()


def test_every_error_is_on_the_page() -> None:
    errors = [
        name
        for name in openclip_triton.__all__
        if isinstance(value := getattr(openclip_triton, name), type)
        and issubclass(value, openclip_triton.ClientError)
    ]
    assert len(errors) == 13
    assert [name for name in errors if f"`{name}`" not in PAGE] == []
