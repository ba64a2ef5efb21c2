import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.demo.scenes import PAIRS, draw_scenes
from export.errors import ExportError
from export.gate import calibration
from export.gate.evaluation import HELD_OUT_SEED, EvaluationSet


def write_picture(path: Path, shade: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (shade, 2, 3)).save(path)


def captions(folder: Path, content: bytes = b"a cat") -> Path:
    path = folder / "captions.txt"
    path.write_bytes(content)
    return path


def test_drawn_scenes_are_the_same_each_time_and_not_those_of_evaluation() -> None:
    first, again = calibration.drawn(count=6), calibration.drawn(count=6)
    assert first == again
    assert len(first.pictures) == len(first.texts) == 6
    assert calibration.SEED != HELD_OUT_SEED
    scene = draw_scenes(1, calibration.SEED)[0]
    with Image.open(io.BytesIO(first.pictures[0])) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(scene.image))
    assert " ".join(PAIRS[0]) in first.texts[0]


def test_pictures_are_found_below_the_folder(tmp_path: Path) -> None:
    write_picture(tmp_path / "b.png", 1)
    write_picture(tmp_path / "inner/deep/a.JPG", 2)
    write_picture(tmp_path / ".hidden.png", 3)
    (tmp_path / "notes.txt").write_text("no picture")
    found = calibration.from_files(tmp_path, captions(tmp_path))
    paths = (tmp_path / "b.png", tmp_path / "inner/deep/a.JPG")
    assert found.pictures == tuple(path.read_bytes() for path in paths)


def test_captions_are_lines_or_what_follows_a_tab(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    path = captions(tmp_path, "\ufeffa cat\n\n  a dog \r\npictures/1.png\tzwei Züge\n".encode())
    assert calibration.from_files(tmp_path, path).texts == ("a cat", "a dog", "zwei Züge")


@pytest.mark.parametrize(("pictures", "texts", "few"), [(32, 32, 0), (31, 99, 1), (99, 8, 1)])
def test_few_samples_are_said(pictures: int, texts: int, few: int) -> None:
    warning = calibration.warning(EvaluationSet((b"",) * pictures, ("a cat",) * texts))
    assert (warning is not None) == bool(few)
    if warning:
        assert f"(pictures: {pictures}, captions: {texts}); give 32 or more" in warning


def test_large_sets_are_thinned_evenly(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    path = captions(tmp_path, "\n".join(map(str, range(3 * calibration.LARGEST))).encode())
    texts = calibration.from_files(tmp_path, path).texts
    assert len(set(texts)) == calibration.LARGEST
    assert (texts[0], texts[-1]) == ("0", str(3 * calibration.LARGEST - 1))


def test_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ExportError, match=r"holds no pictures \(.*\.jpg"):
        calibration.from_files(tmp_path, captions(tmp_path))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"gone: no such folder"):
        calibration.from_files(tmp_path / "gone", captions(tmp_path))


def test_broken_picture_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    with pytest.raises(ExportError, match=r"bad\.png: not a picture"):
        calibration.from_files(tmp_path, captions(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"), [(b" \n\n", "holds no captions"), (b"\xff\xfe\xfa", "UTF-8")]
)
def test_unusable_captions(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ExportError, match=rf"captions\.txt: .*{message}"):
        calibration.from_files(tmp_path, captions(tmp_path, content))


def test_no_such_caption_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"gone\.txt: .*No such file"):
        calibration.from_files(tmp_path, tmp_path / "gone.txt")
