"""A run that was cut off continues, and ends as if nothing had happened."""

import random
import signal
import subprocess
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from openclip_triton.bulk.shards import SETTINGS

from tests.client.conftest import command, draw, start
from tests.client.fake import Fake, vector_of
from tests.client.jobs import caption, image, keys, members, metadata, vectors, write_tar

pytestmark = pytest.mark.slow

COUNT = 1000
BAD = frozenset(range(7, COUNT, 100))
PARTITION = 100
SIZE = ("--shard-size", PARTITION)
IN_FLIGHT = SETTINGS.max_items + 16 + 2 * PARTITION


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(COUNT):
        prefix = b"bad" if number in BAD else b"good"
        (folder / f"{number:05}.jpg").write_bytes(prefix + b" picture %d" % number)
    return folder


def until_seen(fake: Fake, count: int, running: "subprocess.Popen[str]") -> None:
    """Wait until the service has seen this number of items, or the run has ended."""
    deadline = time.monotonic() + 60
    while fake.seen.total() < count and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def manifests(folder: Path) -> list[Path]:
    return sorted((folder / "out.npy.parts/manifests").glob("img_emb_*.json"))


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
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", *SIZE)
    kills = 2
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


def test_killed_while_the_output_is_joined(
    address: str, fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", "-q", *SIZE)
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
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", *SIZE)
    running = start(address, *arguments)
    until_seen(fake, 800, running)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "run the same command again to continue" in told.splitlines()[-1]
    assert "Traceback" not in told
    done = PARTITION * len(manifests(tmp_path))
    assert 0 < done < COUNT
    assert f"{done // PARTITION} of {COUNT // PARTITION} partitions are done and kept" in told
    ran = command(address, *arguments)
    assert f"{COUNT:,} images, {done:,} done before" in ran.stderr
    assert_whole(tmp_path, pictures)


def test_a_lost_service_keeps_what_is_done(
    address: str, fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    fake.delay_s = 0.001
    fake.break_after = [600]
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", *SIZE)
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
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", "-q", *SIZE)
    assert command(address, *arguments).returncode == 1
    mended = pictures / f"{min(BAD):05}.jpg"
    mended.write_bytes(b"mended " + mended.read_bytes())
    (pictures / "new.jpg").write_bytes(b"new")
    fake.seen.clear()
    assert command(address, *arguments).returncode == 1
    assert fake.seen.total() == PARTITION + 1
    listed = (tmp_path / "out.paths.txt").read_text().splitlines()
    bad = [f"{number:05}.jpg" for number in BAD - {min(BAD)}]
    good = [str(path) for path in sorted(pictures.iterdir()) if path.name not in bad]
    assert listed == good
    expected = np.stack([vector_of(Path(path).read_bytes()) for path in listed])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    ran = command(address, *arguments, "--allow-failures")
    assert ran.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.npy", "out.npy.failed.txt", "out.paths.txt", "pictures",
    ]  # fmt: skip


def test_a_failure_that_may_pass_is_tried_again(
    address: str, fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "away.jpg").symlink_to(tmp_path / "away.jpg")
    arguments = ("embed-images", pictures, "-o", tmp_path / "out", "-q", *SIZE)
    command(address, *arguments)
    assert "away.jpg\tunreadable_file" in (tmp_path / "out.failed.txt").read_text()
    (tmp_path / "away.jpg").write_bytes(b"back")
    fake.seen.clear()
    command(address, *arguments)
    assert "away.jpg" not in (tmp_path / "out.failed.txt").read_text()
    assert fake.seen[b"back"] == 1
    assert fake.seen.total() == 1


def test_pairs_of_tars_survive_kills(address: str, fake: Fake, tmp_path: Path) -> None:
    """Each key comes exactly once, in the output or the failures, and both halves line up."""
    fake.delay_s = 0.0005
    tars, each = 8, 60
    everything = [key for tar in range(tars) for key in keys(each, tar)]
    bad = set(everything[5::37])
    for tar in range(tars):
        write_tar(tmp_path / f"in/{tar:05}.tar", members(keys(each, tar), bad=bad))
    arguments = ("embed-pairs", tmp_path / "in", "-o", tmp_path / "out", "-q")
    generator = random.Random(time.time_ns())
    for _ in range(2):
        running = start(address, *arguments)
        until_seen(fake, fake.seen.total() + generator.randrange(1, 500), running)
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=60)
    assert command(address, *arguments).returncode == 1
    found = metadata(tmp_path / "out")
    failed = [
        line.split("\t")[0] for line in (tmp_path / "out.failed.txt").read_text().splitlines()
    ]
    assert sorted([*found["image_path"], *failed]) == everything
    assert set(failed) == bad
    assert found["caption"] == [caption(key) for key in found["image_path"]]
    for half, content in (("img_emb", image), ("text_emb", caption)):
        expected = [vector_of(content(str(key))) for key in found["image_path"]]
        rows = np.concatenate(vectors(tmp_path / "out", half))
        np.testing.assert_array_equal(rows, np.stack(expected).astype(np.float16))
    assert not list((tmp_path / "out").rglob("*.new"))


def test_another_model_or_option_is_refused(
    address: str, fake: Fake, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", "-q", *SIZE)
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
    arguments = ("embed-images", pictures, "-o", tmp_path / "out.npy", "-q", *SIZE)
    running = start(address, *arguments)
    until_seen(fake, 300, running)
    second = command(address, *arguments, "--overwrite")
    assert (second.returncode, running.poll()) == (2, None)
    assert "another run is writing the same output" in second.stderr
    assert (tmp_path / "out.npy.parts").exists()
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    seen = fake.seen.total()
    assert command(address, *arguments).returncode == 1
    assert_whole(tmp_path, pictures)
    assert fake.seen.total() - seen < COUNT, "the progress was lost"


def test_a_run_of_the_real_service_goes_on(real_address: str, tmp_path: Path) -> None:
    draw(tmp_path / "pictures", 1500)
    one = ("embed-images", tmp_path / "pictures", "-o", tmp_path / "a.npy", *SIZE)
    other = ("embed-images", tmp_path / "pictures", "-o", tmp_path / "b.npy", *SIZE)
    assert command(real_address, *one).returncode == 0
    running = start(real_address, *other)
    deadline = time.monotonic() + 60
    part = random.Random(time.time_ns()).randrange(1, 10)
    while not (tmp_path / f"b.npy.parts/manifests/img_emb_{part:02}.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL
    assert command(real_address, *other).returncode == 0
    assert (tmp_path / "a.paths.txt").read_text() == (tmp_path / "b.paths.txt").read_text()
    # Batches differ from run to run, and with them the last bits.
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"), atol=1e-5)
