"""The .json files of tars: read within bounds, and written as columns beside the vectors."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openclip_triton import Client
from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.metadata import MAX_BYTES, MAX_COLUMNS
from openclip_triton.bulk.samples import IMAGES, KINDS, TEXTS

from tests.client.conftest import command
from tests.client.fake import Fake
from tests.client.jobs import Member, caption, embed, image, metadata, write_tar


def tar_of(path: Path, *found: object) -> Path:
    """A tar of samples with these .json files; bytes are written as they are, None is none."""
    members: list[Member] = []
    for number, each in enumerate(found):
        members += [(f"{number}.jpg", image(str(number)))]
        members += [(f"{number}.txt", caption(str(number)).encode())]
        if each is not None:
            data = each if isinstance(each, bytes) else json.dumps(each).encode()
            members.append((f"{number}.json", data))
    return write_tar(path, members)


def types(folder: Path) -> dict[str, str]:
    schema = pq.read_schema(folder / "metadata/metadata_0.parquet")
    return {field.name: str(field.type) for field in schema}


def test_each_field_is_a_column(client: Client, tmp_path: Path) -> None:
    first = {
        "caption": "not this one", "image_path": "nor this", "metadata": "nor this",
        "url": "https://a.example/0.jpg", "width": 640, "similarity": 0.25, "ok": True,
        "error_message": None, "exif": "{}", "boxes": [[0, 1.5]], "by": {"name": "Ä"},
    }  # fmt: skip
    second = {"width": None, "similarity": 1, "url": "", "late": 2**63, "mixed": 1}
    third = {"width": 2**63 - 1, "late": -1, "mixed": "one"}
    out = tmp_path / "out"
    embed(client, tar_of(tmp_path / "a.tar", first, second, third), out, metadata=True)
    assert types(out) == {
        "image_path": "string", "caption": "string", "url": "string", "width": "int64",
        "similarity": "double", "ok": "bool", "error_message": "null", "exif": "string",
        "boxes": "string", "by": "string", "late": "string", "mixed": "string",
    }  # fmt: skip
    assert metadata(out) == {
        "image_path": ["0", "1", "2"],
        "caption": [*map(caption, "012")],
        "url": ["https://a.example/0.jpg", "", None],
        "width": [640, None, 2**63 - 1],
        "similarity": [0.25, 1.0, None],
        "ok": [True, None, None],
        "error_message": [None, None, None],
        "exif": ["{}", None, None],
        "boxes": ["[[0, 1.5]]", None, None],
        "by": ['{"name": "Ä"}', None, None],
        "late": [None, str(2**63), "-1"],
        "mixed": [None, "1", "one"],
    }


def test_no_number_of_fields_makes_more_columns_than_the_most(
    client: Client, tmp_path: Path
) -> None:
    found = [{f"{row}-{n}": n for n in range(100)} for row in range(4)]
    out = tmp_path / "out"
    embed(client, tar_of(tmp_path / "a.tar", *found), out, metadata=True)
    columns = metadata(out)
    assert len(columns) == 2 + MAX_COLUMNS + 1
    left = found[2] | found[3]
    for row, rest in enumerate(columns.pop("metadata")):
        mine = {n: cells[row] for n, cells in columns.items() if cells[row] is not None}
        assert mine | json.loads(rest or "{}") == found[row] | {
            "image_path": str(row), "caption": caption(str(row)),
        }  # fmt: skip
        assert set(json.loads(rest or "{}")) <= set(left)


BROKEN = {
    b"{": "the .json cannot be read: Expecting property name",
    b"": "the .json cannot be read: Expecting value",
    b"[1]": "the .json is not an object",
    b'{"a": "\xff"}': "the .json cannot be read: 'utf-8' codec",
    b'{"a": "\\ud800"}': "the .json cannot be read: 'utf-8' codec can't encode",
    b'{"a": ' + b"[" * 60_000 + b"}": "the .json cannot be read: maximum recursion depth",
    b'{"a": ' + b"[" * 100 + b"1" + b"]" * 100 + b"}": "the .json is nested more than 100 deep",
    b'{"a": "' + b"x" * MAX_BYTES + b'"}': "the .json is larger than 65,536 bytes",
}


def test_what_is_broken_has_no_row(client: Client, tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", {"a": 1}, *BROKEN, None, b"\xef\xbb\xbf{}")
    out = tmp_path / "out"
    summary = embed(client, tar, out, metadata=True, allow_failures=True)
    last = len(BROKEN) + 2
    assert (summary.done, summary.failed) == (2, len(BROKEN) + 1)
    assert metadata(out) == {
        "image_path": ["0", str(last)],
        "caption": [caption("0"), caption(str(last))],
        "a": [1, None],
    }
    failed = Path(f"{out}.failed.txt").read_text().splitlines()
    for number, (line, why) in enumerate(zip(failed, BROKEN.values(), strict=False), 1):
        assert line.startswith(f"{number}\tinvalid_metadata: {why}")
    assert failed[-1] == f"{last - 1}\tno_metadata: the tar has no .json"
    assert embed(client, tar, tmp_path / "without").failed == 0


def test_more_rows_than_are_held_at_once(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openclip_triton.bulk.metadata._BATCH", 7)
    rows: list[dict[str, Any]] = [{"number": n} for n in range(30)]
    rows[25] = {"number": 0.5, "late": "here"}
    out = tmp_path / "out"
    embed(client, tar_of(tmp_path / "a.tar", *rows), out, (IMAGES,), metadata=True)
    table = pq.read_table(out / "metadata/metadata_0.parquet")
    assert table.schema.field("number").type == pa.float64()
    assert table["number"].to_pylist() == [row["number"] for row in rows]
    assert table["late"].to_pylist() == [row.get("late") for row in rows]
    assert [path.name for path in (out / "metadata").iterdir()] == ["metadata_0.parquet"]


@pytest.mark.parametrize("first", [IMAGES, TEXTS])
def test_the_second_half_keeps_it(client: Client, tmp_path: Path, first: Any) -> None:
    tar = tar_of(tmp_path / "a.tar", *({"url": str(n)} for n in range(3)))
    [second] = {*KINDS} - {first}
    for name, with_metadata in (("one", (True, False)), ("other", (False, True))):
        for kind, has in zip((first, second), with_metadata, strict=True):
            embed(client, tar, tmp_path / name, (kind,), metadata=has)
        assert metadata(tmp_path / name)["url"] == ["0", "1", "2"]
        assert metadata(tmp_path / name)["caption"] == [*map(caption, "012")]


def test_with_and_without_do_not_mix(client: Client, fake: Fake, tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", {"url": "0"})
    out = tmp_path / "out"
    embed(client, tar, out, metadata=True)
    with pytest.raises(JobError, match="metadata was True, now False; name another output"):
        embed(client, tar, out)
    manifest = out / "manifests/img_emb_0.json"
    old = json.loads(manifest.read_text())
    del old["settings"]["metadata"]  # as before there was any
    manifest.write_text(json.dumps(old))
    with pytest.raises(JobError, match="metadata was False, now True"):
        embed(client, tar, out, metadata=True)
    embed(client, tar, out, metadata=False, overwrite=True)
    assert set(metadata(out)) == {"image_path", "caption"}
    fake.seen.clear()
    embed(client, tar, out)
    assert not fake.seen


def test_only_tars_have_it(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a text\n")
    with pytest.raises(JobError, match=r"a\.txt is not a tar: --metadata reads the \.json files"):
        embed(client, path, tmp_path / "out", (TEXTS,), metadata=True)


def test_the_command_takes_it_for_the_layout_of_clip_retrieval(
    address: str, tmp_path: Path
) -> None:
    tar = tar_of(tmp_path / "a.tar", {"url": "0"})
    ran = command(address, "embed-pairs", tar, "-o", tmp_path / "v.parquet", "--metadata")
    assert ran.returncode == 2
    assert "metadata needs a folder in the layout of" in ran.stderr
    ran = command(address, "embed-pairs", tar, "-o", tmp_path / "out", "--metadata")
    assert (ran.returncode, metadata(tmp_path / "out")["url"]) == (0, ["0"])
