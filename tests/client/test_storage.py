"""Jobs over URLs: fsspec's file system in memory stands for an object store."""

import json
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from openclip_triton import Client
from openclip_triton.bulk import storage
from openclip_triton.bulk.errors import JobError, Stopped
from openclip_triton.bulk.samples import IMAGES, KINDS, TEXTS, Kind

from tests.client.fake import Fake, vector_of
from tests.client.jobs import caption, embed, image, keys, members, write_parquet, write_tar

TARS = 3
ALL = [key for tar in range(TARS) for key in keys(20, tar)]
BUCKET = "memory://bucket"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[fsspec.AbstractFileSystem]:
    """The file system, with tars in BUCKET/in."""
    found = fsspec.filesystem("memory")
    for tar in range(TARS):
        path = write_tar(tmp_path / f"{tar}.tar", members(keys(20, tar), bad=[ALL[3]]))
        found.pipe_file(f"{BUCKET}/in/{tar:05}.tar", path.read_bytes())
    yield found
    found.store.clear()
    found.pseudo_dirs[:] = [""]


def load(memory: fsspec.AbstractFileSystem, path: str) -> np.ndarray:
    with memory.open(path) as file:
        found: np.ndarray = np.load(file)
    return found


@pytest.mark.parametrize("given", ["in", "in/*.tar"])
def test_from_url_to_url(
    client: Client, fake: Fake, memory: fsspec.AbstractFileSystem, given: str
) -> None:
    out = f"{BUCKET}/out"
    embed(client, f"{BUCKET}/{given}", out, KINDS)
    good = [key for key in ALL if key != ALL[3]]
    images = np.concatenate([load(memory, f"{out}/img_emb/img_emb_{n}.npy") for n in range(TARS)])
    np.testing.assert_array_equal(images, np.stack([vector_of(image(key)) for key in good]))
    with memory.open(f"{out}/metadata/metadata_1.parquet") as file:
        assert pq.read_table(file)["caption"].to_pylist() == [*map(caption, keys(20, 1))]
    assert memory.cat_file(f"{out}.failed.txt").startswith(f"{ALL[3]}\tinvalid_image".encode())
    fake.seen.clear()
    embed(client, f"{BUCKET}/{given}", out, KINDS)
    assert not fake.seen


def test_only_what_changed_is_made_again(
    client: Client, fake: Fake, memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    out = f"{BUCKET}/out"
    embed(client, f"{BUCKET}/in", out, (IMAGES,))
    mended = write_tar(tmp_path / "mended.tar", members(keys(20, 0)))
    memory.pipe_file(f"{BUCKET}/in/00000.tar", mended.read_bytes())
    fake.seen.clear()
    assert embed(client, f"{BUCKET}/in", out, (IMAGES,)).failed == 0
    assert set(fake.seen) == {image(key) for key in keys(20, 0)}
    assert not memory.exists(f"{out}.failed.txt")


def test_nothing_shows_before_it_is_whole(
    client: Client, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload that fails leaves its partition undone; the next run makes only that."""
    out = f"{BUCKET}/out"
    put = storage.Remote.publish

    def fail(self: storage.Remote, draft: Path, path: str) -> None:
        if path.endswith("text_emb_1.npy"):
            raise OSError("the store is away")
        put(self, draft, path)

    with monkeypatch.context() as patch:
        patch.setattr(storage.Remote, "publish", fail)
        with pytest.raises(Stopped, match="the store is away") as stop:
            embed(client, f"{BUCKET}/in", out, KINDS)
    assert stop.value.kept in [f"{n} of 3 partitions are done and kept" for n in (1, 2)]
    assert memory.exists(f"{out}/manifests/img_emb_0.json")
    assert not memory.exists(f"{out}/manifests/img_emb_1.json")
    assert embed(client, f"{BUCKET}/in", out, KINDS).done == len(ALL) - 1
    assert json.loads(memory.cat_file(f"{out}/manifests/text_emb_1.json"))["rows"] == 20


def test_an_output_is_replaced_without_a_listing_for_each_part(
    client: Client,
    memory: fsspec.AbstractFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a.txt").write_text("text\n" * 30)
    embed(client, tmp_path / "a.txt", f"{BUCKET}/out", (TEXTS,), size=1)
    listed: list[str] = []
    names = storage.Remote.names

    def count(self: storage.Remote, folder: str) -> list[str]:
        listed.append(folder)
        return names(self, folder)

    monkeypatch.setattr(storage.Remote, "names", count)
    embed(client, tmp_path / "a.txt", f"{BUCKET}/out", (TEXTS,), size=10, overwrite=True)
    assert len(memory.ls(f"{BUCKET}/out/text_emb")) == len(memory.ls(f"{BUCKET}/out/metadata")) == 3
    assert len(listed) < 10


@pytest.mark.parametrize("name", ["manifests/img_emb_2.json", "v.npy", "v.paths.txt", "v.parquet"])
def test_of_an_upload_that_fails_nothing_stays_on_this_machine(
    client: Client,
    memory: fsspec.AbstractFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    put = storage.Remote.publish

    def fail(self: storage.Remote, draft: Path, path: str) -> None:
        if path.endswith(name):
            raise OSError("the store is away")
        put(self, draft, path)

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(storage.Remote, "publish", fail)
    output = "v.parquet" if name == "v.parquet" else "v.npy"
    with pytest.raises((OSError, Stopped), match="the store is away"):
        embed(client, f"{BUCKET}/in", f"{BUCKET}/{output}", (IMAGES,))
    assert list((tmp_path / "temporary").iterdir()) == []


def test_an_input_that_is_lost_keeps_what_is_done(
    client: Client,
    memory: fsspec.AbstractFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = storage.Remote.open

    def fail(self: storage.Remote, path: str) -> BinaryIO:
        if path.endswith("00001.tar"):
            raise RuntimeError("a library's own error")
        return opened(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(storage.Remote, "open", fail)
        with pytest.raises(Stopped, match=r"00001\.tar: a library's own error") as stop:
            embed(client, f"{BUCKET}/in", tmp_path / "out", KINDS)
    assert stop.value.kept == "1 of 3 partitions are done and kept"
    assert [path.name for path in (tmp_path / "out/img_emb").iterdir()] == ["img_emb_0.npy"]
    assert embed(client, f"{BUCKET}/in", tmp_path / "out", KINDS).done == len(ALL) - 1


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_one_file_below_a_url(client: Client, memory: fsspec.AbstractFileSystem, name: str) -> None:
    embed(client, f"{BUCKET}/in", f"{BUCKET}/{name}", (TEXTS,))
    if name == "v.npy":
        assert load(memory, f"{BUCKET}/v.npy").shape[0] == len(ALL)
        listed = memory.cat_file(f"{BUCKET}/v.texts.txt").decode().splitlines()
    else:
        with memory.open(f"{BUCKET}/v.parquet") as file:
            listed = pq.read_table(file)["text"].to_pylist()
    assert listed == [*map(caption, ALL)]
    assert not memory.exists(f"{BUCKET}/{name}.parts")


def test_images_below_a_url_and_their_captions(
    client: Client, memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    for number in range(50):
        memory.pipe_file(f"{BUCKET}/files/{number:02}.jpg", image(str(number)))
        if number != 7:
            memory.pipe_file(f"{BUCKET}/files/{number:02}.txt", caption(str(number)).encode())
    summary = embed(client, f"{BUCKET}/files", tmp_path / "out", KINDS)
    assert (summary.done, summary.failed, summary.passed_over) == (49, 1, 0)
    [failed] = (tmp_path / "out.failed.txt").read_text().splitlines()
    assert "bucket/files/07.jpg\tno_caption: " in failed


@pytest.mark.parametrize("kinds", [(IMAGES,), KINDS])
def test_urls_in_a_table(
    client: Client,
    memory: fsspec.AbstractFileSystem,
    tmp_path: Path,
    kinds: tuple[Kind, ...],
) -> None:
    urls = [f"{BUCKET}/files/{number}.jpg" for number in range(30)]
    for url in urls[:-1]:
        memory.pipe_file(url, image(url))
    table = {"url": urls, "caption": [caption(url) for url in urls]}
    path = write_parquet(tmp_path / "a.parquet", table)
    summary = embed(client, path, tmp_path / "v.parquet", kinds)
    assert (summary.done, summary.failed) == (29, 1)
    assert pq.read_table(tmp_path / "v.parquet")["path"].to_pylist() == urls[:-1]


def test_a_listing_keeps_the_scheme_that_was_given(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a library with several it names the first otherwise: abfs:// for az://."""
    monkeypatch.setattr(type(memory), "protocol", ("first", "memory"))
    bucket = storage.Remote("memory")
    tars = [f"memory:///bucket/in/{tar:05}.tar" for tar in range(TARS)]
    assert bucket.glob(f"{BUCKET}/in/*.tar") == tars
    assert [path for path, _ in bucket.below(f"{BUCKET}/in")] == tars


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is there")
def test_without_the_package_of_a_scheme_its_extra_is_named(client: Client, tmp_path: Path) -> None:
    told = r"gs:// cannot be opened: .* gcsfs .*: pip install 'openclip-triton-client\[gs\]'"
    with pytest.raises(JobError, match=told):
        embed(client, "gs://bucket/a.tar", tmp_path / "out", (IMAGES,))


def test_a_scheme_that_nothing_opens_is_an_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="nosuch:// cannot be opened"):
        embed(client, "nosuch://bucket/a.tar", tmp_path / "out", (IMAGES,))
