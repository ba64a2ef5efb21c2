"""A run that was cut off goes on, and ends as if nothing had happened."""

import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from openclip_triton.bulk.store import SAVE_EVERY

from tests.client.conftest import command, draw, start
from tests.client.fake import Fake, vector_of

pytestmark = pytest.mark.slow

COUNT = 1500
BAD = frozenset(range(7, COUNT, 100))
IN_FLIGHT = 256 + 16 + SAVE_EVERY


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(COUNT):
        prefix = b"bad" if number in BAD else b"good"
        (folder / f"{number:05}.jpg").write_bytes(prefix + b" picture %d" % number)
    return folder


def until_seen(fake: Fake, count: int, running: "subprocess.Popen[str]") -> None:
    """Waits until the service has seen this number of items, or the run has ended."""
    deadline = time.monotonic() + 60
    while fake.seen.total() < count and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_whole(folder: Path, pictures: Path) -> None:
    good = [path for number, path in enumerate(sorted(pictures.iterdir())) if number not in BAD]
    listed = (folder / "out.paths.txt").read_text().splitlines()
    assert listed == [str(path) for path in good]
    expected = np.stack([vector_of(path.read_bytes()) for path in good])
    np.testing.assert_array_equal(np.load(folder / "out.npy"), expected)
    failed = (folder / "out.npy.failed.txt").read_text().splitlines()
    assert [line.split("\t")[0][-9:] for line in failed] == [f"{n:05}.jpg" for n in sorted(BAD)]
    assert failed[0].split("\t")[1] == "invalid_image: image: not an image"


def test_killed_at_random_points(address: str, fake: Fake, pictures: Path, tmp_path: Path) -> None:
    fake.delay_s = 0.001
    generator = random.Random(time.time_ns())
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy")
    kills = 4
    for _ in range(kills):
        running = start(address, *arguments)
        until_seen(fake, fake.seen.total() + generator.randrange(1, 600), running)
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=60)
        assert not (tmp_path / "out.npy").exists() or running.returncode == 1
    ran = command(address, *arguments)
    assert ran.returncode == 1, ran.stderr
    assert f"{len(BAD)} images failed" in ran.stderr
    assert_whole(tmp_path, pictures)
    assert fake.seen.total() <= COUNT + kills * IN_FLIGHT


def test_killed_while_the_output_is_written(
    address: str, fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", "-q")
    command(address, *arguments)
    (tmp_path / "out.npy").unlink()  # as if the kill had come before its rename
    (tmp_path / "out.npy.new").write_bytes(b"half")
    fake.seen.clear()
    assert command(address, *arguments).returncode == 1
    assert_whole(tmp_path, pictures)
    assert not fake.seen
    assert not (tmp_path / "out.npy.new").exists()


def test_ctrl_c_keeps_what_is_done(
    address: str, fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    fake.delay_s = 0.001
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy")
    running = start(address, *arguments)
    until_seen(fake, 700, running)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "run the same command again to continue" in told.splitlines()[-1]
    assert "Traceback" not in told
    kept = sqlite3.connect(tmp_path / "out.npy.progress")
    done = kept.execute("SELECT count(*) FROM done").fetchone()[0]
    kept.close()
    assert 0 < done < COUNT
    ran = command(address, *arguments)
    assert f"{COUNT:,} images, {done:,} done before" in ran.stderr
    assert_whole(tmp_path, pictures)


def test_a_lost_service_keeps_what_is_done(
    address: str, fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    fake.delay_s = 0.001
    fake.break_after = [600]
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy")
    running = start(address, *arguments)
    until_seen(fake, 300, running)
    fake.refuse = (grpc.StatusCode.UNAUTHENTICATED, "invalid_api_key", "the key is no longer valid")
    _, told = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "the key is no longer valid" in told
    assert "are done and kept; run the same command again to continue" in told
    fake.refuse = None
    command(address, *arguments)
    assert_whole(tmp_path, pictures)


def test_only_what_changed_or_is_new_is_done_again(
    address: str, fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", "-q")
    assert command(address, *arguments).returncode == 1
    mended = [pictures / f"{number:05}.jpg" for number in sorted(BAD)]
    for path in mended:
        path.write_bytes(b"mended " + path.read_bytes())
    (pictures / "new.jpg").write_bytes(b"new")
    (pictures / "00000.jpg").unlink()
    fake.seen.clear()
    ran = command(address, *arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert fake.seen.total() == len(mended) + 1
    listed = (tmp_path / "out.paths.txt").read_text().splitlines()
    assert listed == sorted(str(path) for path in pictures.iterdir())
    expected = np.stack([vector_of(Path(path).read_bytes()) for path in listed])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.npy", "out.paths.txt", "pictures",
    ]  # fmt: skip


def test_another_model_or_option_is_refused(
    address: str, fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", "-q")
    command(address, *arguments)
    fake.fingerprint = "e" * 64
    ran = command(address, *arguments)
    assert ran.returncode == 2
    assert f"fingerprint was {'f' * 64}, now {'e' * 64}" in ran.stderr
    assert command(address, *arguments, "--overwrite").returncode == 1
    assert_whole(tmp_path, pictures)


def test_a_run_that_goes_on_is_not_overwritten(
    address: str, fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    fake.delay_s = 0.001
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", "-q")
    running = start(address, *arguments)
    until_seen(fake, 300, running)
    second = command(address, *arguments, "--overwrite")
    assert (second.returncode, running.poll()) == (2, None)
    assert "another run is writing the same output" in second.stderr
    assert (tmp_path / "out.npy.progress").exists()
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    seen = fake.seen.total()
    assert command(address, *arguments).returncode == 1
    assert_whole(tmp_path, pictures)
    assert fake.seen.total() - seen < COUNT, "the progress was lost"


def test_a_run_of_the_real_service_goes_on(real_address: str, tmp_path: Path) -> None:
    draw(tmp_path / "pictures", 4000)
    one = ("embed-images", tmp_path / "pictures", "-o", tmp_path / "a.npy")
    other = ("embed-images", tmp_path / "pictures", "-o", tmp_path / "b.npy")
    assert command(real_address, *one).returncode == 0
    running = start(real_address, *other)
    deadline = time.monotonic() + 60
    while not (tmp_path / "b.npy.progress").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(random.Random(time.time_ns()).uniform(0.1, 0.8))
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL
    assert command(real_address, *other).returncode == 0
    assert (tmp_path / "a.paths.txt").read_text() == (tmp_path / "b.paths.txt").read_text()
    # Batches differ from run to run, and with them the last bits.
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"), atol=1e-5)
