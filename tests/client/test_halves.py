"""Images and captions in one folder: rows line up, and one half never harms the other."""

from pathlib import Path

import numpy as np
import pytest
from openclip_triton import Client
from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.samples import IMAGES, KINDS, TEXTS, Kind

from tests.client.fake import DIMENSIONS, Fake, vector_of
from tests.client.jobs import (
    Notes,
    caption,
    embed,
    image,
    keys,
    members,
    metadata,
    vectors,
    write_tar,
)

COUNT = 30
TARS = 3
ALL = [key for tar in range(TARS) for key in keys(COUNT, tar)]
BAD = {ALL[3], ALL[40]}  # no images
SILENT = {ALL[5], ALL[41]}  # no caption
BROKEN = BAD | SILENT


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for tar in range(TARS):
        found = members(keys(COUNT, tar), bad=BAD)
        found = [(name, data) for name, data in found if name.removesuffix(".txt") not in SILENT]
        write_tar(tmp_path / f"tars/{tar:05}.tar", found)
    return tmp_path / "tars"


def assert_lined_up(
    folder: Path, rows: list[str], *, no_images: set[str], no_texts: set[str]
) -> None:
    """Each row of both halves is of the same key; what failed in the second is zeros."""
    found = metadata(folder)
    assert found["image_path"] == [None if key in no_images else key for key in rows]
    assert found["caption"] == [None if key in no_texts else caption(key) for key in rows]
    zeros = np.zeros(DIMENSIONS, np.float32)
    images = [zeros if key in no_images else vector_of(image(key)) for key in rows]
    texts = [zeros if key in no_texts else vector_of(caption(key)) for key in rows]
    np.testing.assert_array_equal(np.concatenate(vectors(folder, "img_emb")), np.stack(images))
    np.testing.assert_array_equal(np.concatenate(vectors(folder, "text_emb")), np.stack(texts))


def test_pairs_drop_what_fails_on_one_side(client: Client, tars: Path, tmp_path: Path) -> None:
    summary = embed(client, tars, tmp_path / "out", KINDS)
    rows = [key for key in ALL if key not in BROKEN]
    assert_lined_up(tmp_path / "out", rows, no_images=set(), no_texts=set())
    failed = (tmp_path / "out.failed.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in failed] == sorted(BROKEN)
    assert (summary.done, summary.failed) == (len(rows), len(BROKEN))


def test_captions_are_added_to_images(client: Client, tars: Path, tmp_path: Path) -> None:
    embed(client, tars, tmp_path / "out", (IMAGES,))
    before = {path: path.read_bytes() for path in (tmp_path / "out/img_emb").iterdir()}
    summary = embed(client, tars, tmp_path / "out", (TEXTS,))
    rows = [key for key in ALL if key not in BAD]
    assert_lined_up(tmp_path / "out", rows, no_images=set(), no_texts=SILENT)
    assert {path: path.read_bytes() for path in (tmp_path / "out/img_emb").iterdir()} == before
    found = (summary.done, summary.failed, summary.left_out)
    assert found == (len(rows), len(SILENT), len(BAD))


def test_images_are_added_to_captions(client: Client, tars: Path, tmp_path: Path) -> None:
    embed(client, tars, tmp_path / "out", (TEXTS,))
    embed(client, tars, tmp_path / "out", (IMAGES,))
    rows = [key for key in ALL if key not in SILENT]
    found = metadata(tmp_path / "out")
    # The key of a row of zeros is known: only what its image would have said is not.
    assert found["image_path"] == rows
    assert found["caption"] == [caption(key) for key in rows]


def test_pairs_complete_a_half_that_is_there(
    client: Client, fake: Fake, tars: Path, tmp_path: Path
) -> None:
    embed(client, tars, tmp_path / "out", (IMAGES,))
    fake.seen.clear()
    embed(client, tars, tmp_path / "out", KINDS)
    assert all(content.startswith(b"caption") for content in fake.seen)
    rows = [key for key in ALL if key not in BAD]
    assert_lined_up(tmp_path / "out", rows, no_images=set(), no_texts=SILENT)


def test_lines_are_the_captions_of_as_many_images(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [f"{number:03}.jpg" for number in range(25)]
    for name in names:
        (folder / name).write_bytes(b"bad" if name == "004.jpg" else image(name))
    (tmp_path / "captions.txt").write_text("".join(f"{caption(name)}\n" for name in names))
    embed(client, folder, tmp_path / "out", (IMAGES,))
    embed(client, tmp_path / "captions.txt", tmp_path / "out", (TEXTS,))
    rows = [name for name in names if name != "004.jpg"]
    assert metadata(tmp_path / "out")["caption"] == [caption(name) for name in rows]
    texts = np.concatenate(vectors(tmp_path / "out", "text_emb"))
    np.testing.assert_array_equal(texts, np.stack([vector_of(caption(name)) for name in rows]))


@pytest.mark.parametrize("count", [24, 31])
def test_lines_that_do_not_line_up_are_refused(client: Client, tmp_path: Path, count: int) -> None:
    for half, lines in (((TEXTS,), 25), ((IMAGES,), count)):
        path = tmp_path / f"{half[0].noun}.csv"
        path.write_text("text,url\n" + "a,memory://nowhere/a.jpg\n" * lines)
        if half == (TEXTS,):
            embed(client, path, tmp_path / "out", half)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.npy")}
    with pytest.raises(JobError, match="they do not line up"):
        embed(client, tmp_path / "image.csv", tmp_path / "out", (IMAGES,))
    assert before.items() <= {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.npy")}.items()


def test_more_partitions_than_the_input_has_are_refused(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n" * 25)
    embed(client, tmp_path / "a.txt", tmp_path / "out", (TEXTS,))
    write_tar(tmp_path / "a.tar", members(["0"]))
    with pytest.raises(JobError, match="3 partitions of texts, the input has 1"):
        embed(client, tmp_path / "a.tar", tmp_path / "out", (IMAGES,))


@pytest.mark.parametrize("half", [IMAGES, TEXTS])
def test_overwrite_names_what_it_replaces_and_leaves_the_other_half(
    client: Client, fake: Fake, tars: Path, tmp_path: Path, half: Kind
) -> None:
    embed(client, tars, tmp_path / "out", KINDS)
    other = "text_emb" if half is IMAGES else "img_emb"
    before = {path: path.read_bytes() for path in (tmp_path / "out" / other).iterdir()}
    fake.seen.clear()
    notes = Notes()
    embed(client, tars, tmp_path / "out", (half,), notes=notes, overwrite=True)
    [note] = notes.lines
    out = tmp_path / "out"
    files = f"{out}/{half.folder}/{half.folder}_0.npy, {out}/{half.folder}/{half.folder}_1.npy"
    assert note == f"replacing {files} and 1 more file"
    assert {path: path.read_bytes() for path in (tmp_path / "out" / other).iterdir()} == before
    rows = [key for key in ALL if key not in BROKEN]
    assert_lined_up(tmp_path / "out", rows, no_images=set(), no_texts=set())
    assert fake.seen.total() == len(rows)


def test_overwrite_drops_what_the_input_no_longer_has(
    client: Client, tars: Path, tmp_path: Path
) -> None:
    embed(client, tars, tmp_path / "out", KINDS)
    (tars / "00002.tar").unlink()
    with pytest.raises(JobError, match="3 partitions of images, the input has 2"):
        embed(client, tars, tmp_path / "out", KINDS)
    embed(client, tars, tmp_path / "out", KINDS, overwrite=True)
    names = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    expected = [f"{n}_{i}.npy" for n in ("img_emb", "text_emb") for i in range(2)]
    assert [name for name in names if name.endswith(".npy")] == expected
    assert [name for name in names if name.startswith("metadata")] == [
        "metadata_0.parquet", "metadata_1.parquet",
    ]  # fmt: skip


def test_a_half_that_something_else_wrote_is_left_alone(
    client: Client, tars: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out/img_emb"
    folder.mkdir(parents=True)
    np.save(folder / "img_emb_0.npy", np.zeros((3, 4)))
    with pytest.raises(JobError, match="out exists already; give --overwrite"):
        embed(client, tars, tmp_path / "out", (IMAGES,))
    for overwrite in (False, True):
        with pytest.raises(JobError, match="img_emb was not written by this command"):
            embed(client, tars, tmp_path / "out", (TEXTS,), overwrite=overwrite)
    assert np.load(folder / "img_emb_0.npy").shape == (3, 4)
    embed(client, tars, tmp_path / "out", (IMAGES,), overwrite=True)
    assert len(vectors(tmp_path / "out", "img_emb")) == TARS


def test_both_halves_are_of_one_model(
    client: Client, fake: Fake, tars: Path, tmp_path: Path
) -> None:
    embed(client, tars, tmp_path / "out", (IMAGES,))
    fake.fingerprint = "e" * 64
    with pytest.raises(JobError, match=f"images of another run: fingerprint was {'f' * 64}, now"):
        embed(client, tars, tmp_path / "out", (TEXTS,))
    # A new model: the one half, then the other.
    embed(client, tars, tmp_path / "out", (IMAGES,), overwrite=True)
    embed(client, tars, tmp_path / "out", (TEXTS,))
    fake.fingerprint = "d" * 64
    notes = Notes()
    embed(client, tars, tmp_path / "out", (TEXTS,), overwrite=True, notes=notes)
    assert "the images there are from another model" in notes.lines[1]


def test_other_inputs_are_refused(client: Client, tars: Path, tmp_path: Path) -> None:
    embed(client, tars, tmp_path / "out", (IMAGES,))
    other = write_tar(tmp_path / "other.tar", members(["0"]))
    with pytest.raises(JobError, match=r"holds images of .*00000.tar, not of .*other.tar"):
        embed(client, [other, tars], tmp_path / "out", (IMAGES,))


def test_tars_can_be_added_at_the_end(
    client: Client, fake: Fake, tars: Path, tmp_path: Path
) -> None:
    embed(client, tars, tmp_path / "out", KINDS)
    fake.seen.clear()
    more = keys(COUNT, TARS)
    write_tar(tars / "00003.tar", members(more))
    embed(client, tars, tmp_path / "out", KINDS)
    assert fake.seen.total() == 2 * COUNT
    rows = [key for key in [*ALL, *more] if key not in BROKEN]
    assert_lined_up(tmp_path / "out", rows, no_images=set(), no_texts=set())
