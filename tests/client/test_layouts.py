"""Outputs, read back with numpy and pyarrow."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from openclip_triton.bulk.layouts import BATCH, IMAGES, TEXTS, Folder, Kind, Table, layout_of
from openclip_triton.values import Vector

COUNT = BATCH + 10
VECTORS = np.random.default_rng(0).standard_normal((COUNT, 4)).astype(np.float32)
KEYS = [f"folder/ü {number}.jpg" for number in range(COUNT)]


def table(count: int = COUNT) -> Table:
    rows = ((key, vector) for key, vector in zip(KEYS[:count], VECTORS[:count], strict=True))
    return Table(rows, count, 4, {"model": "demo", "fingerprint": "f1"})


@pytest.mark.parametrize(("kind", "list_name"), [(IMAGES, "v.paths.txt"), (TEXTS, "v.texts.txt")])
def test_npy_has_a_list_beside_it(tmp_path: Path, kind: Kind, list_name: str) -> None:
    layout = layout_of(tmp_path / "v.npy", kind, None, 10)
    assert not layout.exists()
    layout.write(table())
    assert layout.exists()
    found = np.load(tmp_path / "v.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VECTORS)
    assert (tmp_path / list_name).read_text("utf-8").split("\n") == [*KEYS, ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.npy", list_name]


def test_parquet_has_fixed_size_lists(tmp_path: Path) -> None:
    layout_of(tmp_path / "v.parquet", IMAGES, None, 10).write(table())
    found = pq.read_table(tmp_path / "v.parquet")
    assert str(found.schema.field("embedding").type) == "fixed_size_list<element: float>[4]"
    assert found["path"].to_pylist() == KEYS
    np.testing.assert_array_equal(np.stack(found["embedding"].to_numpy()), VECTORS)
    assert found.schema.metadata[b"fingerprint"] == b"f1"


def test_half_precision(tmp_path: Path) -> None:
    layout_of(tmp_path / "v.npy", IMAGES, "float16", 10).write(table())
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), VECTORS.astype(np.float16))
    layout_of(tmp_path / "v.parquet", IMAGES, "float16", 10).write(table(5))
    found = pq.read_table(tmp_path / "v.parquet")["embedding"].to_pylist()
    np.testing.assert_array_equal(np.array(found, np.float16), VECTORS[:5].astype(np.float16))


def test_folder_is_what_clip_retrieval_reads(tmp_path: Path) -> None:
    layout_of(tmp_path / "out", IMAGES, None, 10**6).write(table())
    found = np.load(tmp_path / "out/img_emb/img_emb_0.npy")
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, VECTORS.astype(np.float16))
    metadata = pq.read_table(tmp_path / "out/metadata/metadata_0.parquet")
    assert metadata.to_pydict() == {"image_path": KEYS}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["img_emb", "metadata"]


def test_texts_have_captions(tmp_path: Path) -> None:
    layout_of(tmp_path / "out", TEXTS, None, 10**6).write(table(3))
    assert (tmp_path / "out/text_emb/text_emb_0.npy").exists()
    metadata = pq.read_table(tmp_path / "out/metadata/metadata_0.parquet")
    assert metadata.to_pydict() == {"caption": KEYS[:3]}


@pytest.mark.parametrize(("count", "size", "shards"), [(25, 10, 3), (20, 10, 2), (110, 10, 11)])
def test_shards_keep_the_order_by_name(tmp_path: Path, count: int, size: int, shards: int) -> None:
    layout_of(tmp_path / "out", IMAGES, "float32", size).write(table(count))
    vectors = sorted((tmp_path / "out/img_emb").iterdir())
    metadata = sorted((tmp_path / "out/metadata").iterdir())
    assert len(vectors) == len(metadata) == shards
    assert vectors[0].name == ("img_emb_00.npy" if shards > 9 else "img_emb_0.npy")
    np.testing.assert_array_equal(np.concatenate([np.load(v) for v in vectors]), VECTORS[:count])
    assert [k for m in metadata for k in pq.read_table(m)["image_path"].to_pylist()] == KEYS[:count]


@pytest.mark.parametrize("name", ["v.npy", "v.parquet", "out"])
def test_no_rows_are_an_empty_output(tmp_path: Path, name: str) -> None:
    layout_of(tmp_path / name, IMAGES, None, 10).write(table(0))
    if name == "v.npy":
        assert np.load(tmp_path / name).shape == (0, 4)
    elif name == "v.parquet":
        assert pq.read_table(tmp_path / name).num_rows == 0
    else:
        assert np.load(tmp_path / "out/img_emb/img_emb_0.npy").shape == (0, 4)


@pytest.mark.parametrize("name", ["v.npy", "v.parquet", "out"])
def test_a_failure_on_the_way_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    def broken() -> Iterator[tuple[str, Vector]]:
        yield KEYS[0], VECTORS[0]
        raise OSError("disk")

    layout = layout_of(tmp_path / name, IMAGES, None, 10)
    layout.write(table(5))
    with pytest.raises(OSError, match="disk"):
        layout.write(Table(broken(), 7, 4, {}))
    file = {"v.npy": "v.npy", "v.parquet": "v.parquet", "out": "out/img_emb/img_emb_0.npy"}[name]
    found = tmp_path / file
    rows = pq.read_table(found).num_rows if name == "v.parquet" else len(np.load(found))
    assert rows == 5


def test_vectors_never_stand_without_their_list(tmp_path: Path) -> None:
    (tmp_path / "v.paths.txt").mkdir()  # the list cannot take its name
    with pytest.raises(IsADirectoryError):
        layout_of(tmp_path / "v.npy", IMAGES, None, 10).write(table(5))
    assert [path.name for path in tmp_path.iterdir()] == ["v.paths.txt"]


def test_a_folder_keeps_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "out/metadata").mkdir(parents=True)
    (tmp_path / "out/notes.txt").write_text("mine")
    layout = layout_of(tmp_path / "out", IMAGES, None, 10)
    layout.write(table(5))
    layout.write(table(3))
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    assert len(np.load(tmp_path / "out/img_emb/img_emb_0.npy")) == 3


def test_names_say_the_layout(tmp_path: Path) -> None:
    assert isinstance(layout_of(tmp_path / "ViT-B-32.laion2b", IMAGES, None, 10), Folder)
    with pytest.raises(ValueError, match=r"v.csv: name a .npy file"):
        layout_of(tmp_path / "v.csv", IMAGES, None, 10)
