"""Outputs, read back with numpy and pyarrow."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from openclip_triton import Client
from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.outputs.layouts import ClipFolder
from openclip_triton.bulk.outputs.output import output_of
from openclip_triton.bulk.samples import IMAGES, KINDS, TEXTS

from tests.client.fake import DIMENSIONS, Fake, vector_of
from tests.client.jobs import caption, embed, image, keys, members, metadata, vectors, write_tar

COUNT = 25
KEYS = keys(COUNT)
BAD = KEYS[7]
GOOD = [key for key in KEYS if key != BAD]
IMAGE_VECTORS = np.stack([vector_of(image(key)) for key in GOOD])
TEXT_VECTORS = np.stack([vector_of(caption(key)) for key in GOOD])


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "0.tar", members(KEYS, bad=[BAD]))


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"{caption(key)}\n" for key in GOOD))
    return path


def test_npy_has_a_list_beside_it(
    client: Client, tar: Path, captions: Path, tmp_path: Path
) -> None:
    embed(client, tar, tmp_path / "out/i.npy", (IMAGES,), allow_failures=True)
    found = np.load(tmp_path / "out/i.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, IMAGE_VECTORS)
    assert (tmp_path / "out/i.paths.txt").read_text().split("\n") == [*GOOD, ""]
    embed(client, captions, tmp_path / "out/t.npy", (TEXTS,))
    np.testing.assert_array_equal(np.load(tmp_path / "out/t.npy"), TEXT_VECTORS)
    assert (tmp_path / "out/t.texts.txt").read_text().split("\n") == [*map(caption, GOOD), ""]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "i.npy", "i.npy.failed.txt", "i.paths.txt", "t.npy", "t.texts.txt",
    ]  # fmt: skip


def test_a_list_has_one_text_a_line(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\n"two\nlines"\nlast\n')
    embed(client, tmp_path / "a.csv", tmp_path / "t.npy", (TEXTS,))
    assert (tmp_path / "t.texts.txt").read_text() == "two lines\nlast\n"


def test_parquet_has_fixed_size_lists(client: Client, tar: Path, tmp_path: Path) -> None:
    embed(client, tar, tmp_path / "v.parquet", (IMAGES,), dtype=None, allow_failures=True)
    found = pq.read_table(tmp_path / "v.parquet")
    assert (
        str(found.schema.field("embedding").type)
        == f"fixed_size_list<element: float>[{DIMENSIONS}]"
    )
    assert found["path"].to_pylist() == GOOD
    np.testing.assert_array_equal(np.stack(found["embedding"].to_numpy()), IMAGE_VECTORS)
    assert found.schema.metadata[b"fingerprint"] == b"f" * 64


def test_parquet_of_pairs_has_both(client: Client, tar: Path, tmp_path: Path) -> None:
    embed(client, tar, tmp_path / "v.parquet", KINDS)
    found = pq.read_table(tmp_path / "v.parquet")
    assert found["path"].to_pylist() == GOOD
    assert found["text"].to_pylist() == [*map(caption, GOOD)]
    for column, expected in (("image", IMAGE_VECTORS), ("text", TEXT_VECTORS)):
        rows = np.stack(found[f"{column}_embedding"].to_numpy())
        np.testing.assert_array_equal(rows, expected)


def test_a_folder_of_parquet(client: Client, captions: Path, tmp_path: Path) -> None:
    embed(client, captions, tmp_path / "out", (TEXTS,), form="parquet")
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert [part.name for part in parts] == [f"part_{n}.parquet" for n in range(3)]
    rows = np.concatenate([np.stack(pq.read_table(p)["embedding"].to_numpy()) for p in parts])
    np.testing.assert_array_equal(rows, TEXT_VECTORS)
    with pytest.raises(
        JobError, match="holds texts; only a folder in the layout of clip-retrieval"
    ):
        embed(client, captions, tmp_path / "out", (IMAGES,), form="parquet")
    with pytest.raises(JobError, match="is in the layout parquet"):
        embed(client, captions, tmp_path / "out", (TEXTS,))


def test_half_precision(client: Client, captions: Path, tmp_path: Path) -> None:
    half = TEXT_VECTORS.astype(np.float16)
    embed(client, captions, tmp_path / "v.npy", (TEXTS,), dtype="float16")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), half)
    embed(client, captions, tmp_path / "v.parquet", (TEXTS,), dtype="float16")
    found = pq.read_table(tmp_path / "v.parquet")["embedding"].to_pylist()
    np.testing.assert_array_equal(np.array(found, np.float16), half)


def test_a_folder_is_what_clip_retrieval_reads(client: Client, tar: Path, tmp_path: Path) -> None:
    embed(client, tar, tmp_path / "out", KINDS, dtype=None)
    [images], [texts] = vectors(tmp_path / "out", "img_emb"), vectors(tmp_path / "out", "text_emb")
    assert images.dtype == texts.dtype == np.float16
    np.testing.assert_array_equal(images, IMAGE_VECTORS.astype(np.float16))
    np.testing.assert_array_equal(texts, TEXT_VECTORS.astype(np.float16))
    assert metadata(tmp_path / "out") == {"image_path": GOOD, "caption": [*map(caption, GOOD)]}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "img_emb", "manifests", "metadata", "text_emb",
    ]  # fmt: skip


@pytest.mark.parametrize(("count", "size", "parts"), [(25, 10, 3), (20, 10, 2), (55, 5, 11)])
def test_parts_keep_the_order_by_name(
    client: Client, tmp_path: Path, count: int, size: int, parts: int
) -> None:
    lines = [f"line {number}" for number in range(count)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    embed(client, tmp_path / "a.txt", tmp_path / "out", (TEXTS,), size=size)
    names = [path.name for path in sorted((tmp_path / "out/text_emb").iterdir())]
    assert len(names) == parts
    assert names[0] == ("text_emb_00.npy" if parts > 9 else "text_emb_0.npy")
    assert metadata(tmp_path / "out") == {"caption": lines}
    found = np.concatenate(vectors(tmp_path / "out", "text_emb"))
    np.testing.assert_array_equal(found, np.stack([vector_of(line) for line in lines]))


@pytest.mark.parametrize("name", ["v.npy", "v.parquet", "out"])
def test_no_rows_are_an_empty_output(client: Client, tmp_path: Path, name: str) -> None:
    tar = write_tar(tmp_path / "0.tar", members(KEYS[:2], bad=KEYS[:2]))
    summary = embed(client, tar, tmp_path / name, (IMAGES,))
    assert (summary.done, summary.failed) == (0, 2)
    if name == "v.npy":
        assert np.load(tmp_path / name).shape == (0, DIMENSIONS)
    elif name == "v.parquet":
        assert pq.read_table(tmp_path / name).num_rows == 0
    else:
        assert vectors(tmp_path / name, "img_emb")[0].shape == (0, DIMENSIONS)


def test_vectors_never_stand_without_their_list(
    client: Client, captions: Path, tmp_path: Path
) -> None:
    (tmp_path / "v.texts.txt").mkdir()  # the list cannot take its name
    with pytest.raises(IsADirectoryError):
        embed(client, captions, tmp_path / "v.npy", (TEXTS,))
    assert not (tmp_path / "v.npy").exists()
    (tmp_path / "v.texts.txt").rmdir()
    embed(client, captions, tmp_path / "v.npy", (TEXTS,))
    assert len(np.load(tmp_path / "v.npy")) == len(GOOD)


def test_manifests_say_what_a_part_holds(client: Client, tar: Path, tmp_path: Path) -> None:
    embed(client, tar, tmp_path / "out", KINDS)
    found = json.loads((tmp_path / "out/manifests/img_emb_0.json").read_text())
    assert found["source"] == str(tar)
    assert str(tar.stat().st_size) in found["version"]
    assert found["settings"] == {
        "model": "fake", "fingerprint": "f" * 64, "dimensions": DIMENSIONS, "dtype": "float32",
        "truncate": True, "metadata": False,
    }  # fmt: skip
    assert (found["items"], found["rows"], found["dropped"]) == (COUNT, COUNT - 1, [7])
    [failure] = found["failures"]
    assert (failure["position"], failure["key"], failure["code"]) == (7, BAD, "invalid_image")
    other = (tmp_path / "out/manifests/text_emb_0.json").read_text()
    assert json.loads(other) == found


def test_parts_can_be_used_while_the_job_runs(
    client: Client, fake: Fake, captions: Path, tmp_path: Path
) -> None:
    seen: list[list[str]] = []

    class Watching(type(fake.seen)):  # type: ignore[misc]
        def __setitem__(self, key: bytes, value: int) -> None:
            folder = tmp_path / "out/text_emb"
            seen.append(sorted(path.name for path in folder.glob("*.npy")))
            super().__setitem__(key, value)

    fake.seen = Watching()
    lines = [f"line {number}" for number in range(3000)]
    captions.write_text("\n".join(lines))
    embed(client, captions, tmp_path / "out", (TEXTS,), size=500)
    assert any(0 < len(names) < 6 for names in seen)


def test_names_say_the_layout(tmp_path: Path) -> None:
    folder = output_of(f"{tmp_path}/ViT-B-32.laion2b/", (IMAGES,), None, None)
    assert isinstance(folder.layout, ClipFolder)
    assert folder.layout.root == f"{tmp_path}/ViT-B-32.laion2b"
    for name, form, kinds, message in (
        ("v.csv", None, (IMAGES,), r"v.csv: name a .npy or .parquet file"),
        ("v.npy", None, KINDS, r"v.npy: pairs need"),
        ("v.npy", "parquet", (IMAGES,), "a format is for a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            output_of(str(tmp_path / name), kinds, None, form)
