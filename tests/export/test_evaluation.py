import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.demo.scenes import LABELS
from export.errors import ExportError
from export.gate import calibration
from export.gate.evaluation import EvaluationSet, built_in, drawn, from_files


def draw(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (len(path.name), 0, 0)).save(path)
    return path.read_bytes()


def test_drawn_scenes_have_their_labels_and_captions() -> None:
    found = drawn(96)
    assert len(found.pictures) == 96
    assert len(set(found.texts)) == len(found.texts)
    assert found.labels is not None
    assert found.pairs is not None
    for label, pair in zip(found.labels, found.pairs, strict=True):
        assert label is not None
        assert pair is not None
        assert found.texts[pair].startswith(f"a {LABELS[label]} on a ")
    with Image.open(io.BytesIO(found.pictures[0])) as image:
        assert image.size == (64, 64)
    assert found == drawn(96)
    assert found.pictures[:48] == drawn(48).pictures
    assert found.pictures[0] != calibration.drawn(1).pictures[0]


def test_prompts_follow_the_texts() -> None:
    found = EvaluationSet((), ("one",), classes=("cat", "{dog}"))
    assert found.all_texts == ("one", "cat", "a photo of a cat.", "{dog}", "a photo of a {dog}.")


def test_built_in_holds_text_for_every_length(tmp_path: Path) -> None:
    mine = draw(tmp_path / "mine.png")
    found = built_in(32, [tmp_path / "mine.png"])
    assert found.pictures[-1] == mine
    assert "" in found.texts
    assert max(len(text.split()) for text in found.texts) >= 80
    assert found.labels is None


def test_joined_keeps_what_belongs_together() -> None:
    one = EvaluationSet((b"1", b"2"), ("x", "y"), pairs=(1, 0))
    other = EvaluationSet((b"3",), ("y", "z"), (0,), ("cat", "dog"), (1,))
    found = one.joined(other)
    assert found == EvaluationSet(
        (b"1", b"2", b"3"), ("x", "y", "z"), (1, 0, 1), ("cat", "dog"), (None, None, 1)
    )
    assert other.joined(one).labels == (1, None, None)
    with pytest.raises(ExportError, match="with classes"):
        other.joined(other)


def test_folders_are_classes(tmp_path: Path) -> None:
    content = [
        draw(tmp_path / name)
        for name in ("loose.png", "big_cat/a.JPG", "big_cat/b.png", "dog/c.bmp")
    ]
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    (tmp_path / "empty").mkdir()
    found = from_files(tmp_path)
    assert found.pictures == tuple(content)
    assert found.classes == ("big cat", "dog")
    assert found.labels == (None, 0, 0, 1)
    assert found.texts == ()
    assert found.pairs is None


def test_plain_captions_and_paired_ones(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        draw(tmp_path / name)
    captions = tmp_path / "captions.txt"
    captions.write_text("a cat\n\n a dog \na cat\n", encoding="utf-8")
    found = from_files(tmp_path, captions)
    assert (found.texts, found.pairs, found.labels) == (("a cat", "a dog"), None, None)
    captions.write_text("c.png\tun chat à Zürich\na.png\tun chat à Zürich\n", encoding="utf-8")
    found = from_files(tmp_path, captions)
    assert (found.texts, found.pairs) == (("un chat à Zürich",), (0, None, 0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n\n", "holds no captions"),
        (b"a cat \xff", "cannot be read as UTF-8"),
        (b"x.png\ta cat\n", "'x.png' is not a picture in"),
        (b"a.png\t \nb.png\ta dog\n", "'a.png' is not a picture and its caption, separated by a"),
        (b"a.png\ta cat\na.png\ta dog\n", "'a.png' has two captions"),
    ],
)
def test_bad_captions_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    draw(tmp_path / "a.png")
    captions = tmp_path / "captions.txt"
    captions.write_bytes(content)
    with pytest.raises(ExportError, match=message):
        from_files(tmp_path, captions)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nowhere: no such folder"):
        from_files(tmp_path / "nowhere")
    with pytest.raises(ExportError, match="holds no pictures"):
        from_files(tmp_path)
    draw(tmp_path / "cat" / "a.png")
    with pytest.raises(ExportError, match=r"only one folder with pictures \(cat\)"):
        from_files(tmp_path)
    (tmp_path / "torn.png").write_bytes(np.arange(90, dtype=np.uint8).tobytes())
    draw(tmp_path / "dog" / "a.png")
    with pytest.raises(ExportError, match=r"torn\.png: not a picture"):
        from_files(tmp_path)
    with pytest.raises(ExportError, match="cannot be read"):
        from_files(tmp_path / "cat", tmp_path / "no-captions.txt")
