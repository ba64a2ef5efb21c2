"""Lines, CSV, TSV and parquet: which cells are embedded, and how rows are cut into partitions."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.inputs.catalog import Inputs, partitions
from openclip_triton.bulk.inputs.columns import Columns
from openclip_triton.bulk.samples import IMAGES, KINDS, TEXTS, Kind, Partition, Sample

from tests.client.jobs import write_parquet


def cut(
    path: Path, kinds: tuple[Kind, ...], size: int = 10, columns: Columns | None = None
) -> list[Partition]:
    inputs = Inputs([str(path)], kinds, size=size, columns=columns or Columns())
    return list(partitions(inputs.open()))


def read(found: Sequence[Partition]) -> list[Sample]:
    return [sample for partition in found for sample in partition.samples()]


def test_each_line_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\ntwo \nlast")
    found = cut(tmp_path / "a.txt", (TEXTS,), 3)
    assert [sample.text for sample in read(found)] == ["one", "", "two ", "last"]
    assert [sample.key for sample in read(found)] == [f"line {n}" for n in (1, 2, 3, 4)]
    assert [partition.count for partition in found] == [3, 1]
    assert [p.source.rpartition(" from ")[2] for p in found] == ["line 1", "line 4"]


def test_any_file_is_lines_where_texts_are_embedded(tmp_path: Path) -> None:
    (tmp_path / "captions").write_text("one\n")
    assert read(cut(tmp_path / "captions", (TEXTS,))) == [Sample("line 1", text="one")]


def test_a_list_names_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    (tmp_path / "a.txt").write_text("a caption\n")
    names = tmp_path / "list.txt"
    names.write_text(f"{tmp_path}/a.jpg\n{tmp_path}/nowhere.jpg\n")
    first, second = read(cut(names, KINDS))
    assert first == Sample(f"{tmp_path}/a.jpg", tmp_path / "a.jpg", "a caption")
    assert second.problem
    assert second.problem.reason == "No such file or directory"


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_rows_of_delimited_files(tmp_path: Path, name: str, mark: str) -> None:
    rows = [
        ["id", "TEXT", "filepath"],
        ["7", '"two\nlines"', "a.jpg"],
        ["8", "grün", ""],
        ["9"],
        ["10", "", "memory://nowhere/b.jpg"],
    ]
    (tmp_path / name).write_text("\n".join(mark.join(row) for row in rows), "utf-8")
    found = read(cut(tmp_path / name, (TEXTS,), 2))
    assert [(sample.key, sample.text) for sample in found] == [
        ("7", "two\nlines"), ("8", "grün"), ("9", None), ("10", ""),
    ]  # fmt: skip
    assert [sample.problem.code for sample in found if sample.problem] == ["no_caption"]
    pairs = read(cut(tmp_path / name, KINDS)[:1])
    assert pairs[0].image == Path("a.jpg")
    assert [s.problem.code for s in pairs[1:] if s.problem] == [
        "no_image", "no_image", "unreadable_file",
    ]  # fmt: skip


def test_a_changed_cell_changes_its_partition_only(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,other\na,1\nb,2\nc,3\n")
    before = [p.version for p in cut(path, (TEXTS,), 2)]
    path.write_text("text,other\na,one\nb,2\nC,3\n")
    after = [p.version for p in cut(path, (TEXTS,), 2)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]


def test_rows_of_parquet_are_cut_across_its_row_groups(tmp_path: Path) -> None:
    columns = {
        "key": pa.array(range(25)),
        "jpg": pa.array([b"image %d" % number for number in range(25)]),
        "caption": pa.array([f"caption {number}" for number in range(24)] + [None]),
    }
    path = write_parquet(tmp_path / "a.parquet", columns)
    found = cut(path, KINDS, 10)
    assert [partition.count for partition in found] == [10, 10, 5]
    samples = read(found)
    assert [sample.key for sample in samples] == [str(number) for number in range(25)]
    assert samples[13] == Sample("13", b"image 13", "caption 13")
    assert samples[24].problem
    assert samples[24].problem.code == "no_caption"
    assert [sample.text for sample in read(found[1:2])] == [f"caption {n}" for n in range(10, 20)]


def test_images_of_parquet_may_be_bytes_with_a_path(tmp_path: Path) -> None:
    cells = [
        {"bytes": b"one", "path": "1.jpg"},
        {"bytes": None, "path": "2.jpg"},
        {"bytes": None, "path": None},
    ]
    path = write_parquet(tmp_path / "a.parquet", {"image": pa.array(cells)})
    first, second, third = read(cut(path, (IMAGES,)))
    assert (first.key, first.image) == ("row 1", b"one")
    assert second.image == Path("2.jpg")
    assert third.problem
    assert third.problem.code == "no_image"


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"a": ["x"], "b": ["y"], "text": ["z"]})
    named = Columns(text="b", key="a")
    [partition] = cut(path, (TEXTS,), columns=named)
    assert list(partition.samples()) == [Sample("x", text="y")]
    [other] = cut(path, (TEXTS,))
    assert other.version != partition.version


@pytest.mark.parametrize(
    ("columns", "kinds", "message"),
    [
        (Columns(), (IMAGES,), "no column for the images; it has a, text; name one by --image"),
        (Columns(text="c"), (TEXTS,), "has no column 'c'; it has a, text; name one by --text"),
        (Columns(key="c"), (TEXTS,), "has no column 'c'; it has a, text; name one by --key"),
    ],
)  # fmt: skip
def test_a_missing_column_is_named(
    tmp_path: Path, columns: Columns, kinds: tuple[Kind, ...], message: str
) -> None:
    parquet = write_parquet(tmp_path / "a.parquet", {"a": ["x"], "text": ["z"]})
    (tmp_path / "a.csv").write_text("a,text\nx,z\n")
    for path in (parquet, tmp_path / "a.csv"):
        with pytest.raises(JobError, match=message):
            cut(path, kinds, columns=columns)


def test_a_cell_of_another_type_is_a_problem(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": [3]})
    [sample] = read(cut(path, (IMAGES,)))
    assert sample.problem
    assert "not int" in sample.problem.reason


def test_what_is_not_parquet_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(JobError, match=r"a\.parquet cannot be read as parquet"):
        cut(tmp_path / "a.parquet", (TEXTS,))


def test_a_cell_without_an_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\n"' + "x" * (2**24 + 10))
    with pytest.raises(JobError, match=r"a\.csv, line .*: field larger than"):
        cut(tmp_path / "a.csv", (TEXTS,))


def test_folders_and_globs_are_replaced_by_what_they_hold(tmp_path: Path) -> None:
    for name in ("1.tar", "0.tar", "0.parquet", "0_stats.json"):
        (tmp_path / name).write_bytes(b"")
    for given in (tmp_path, tmp_path / "*.tar", tmp_path / "?.tar"):
        names = [Path(partition.source).name for partition in cut(given, KINDS)]
        assert names == ["0.tar", "1.tar"]
    with pytest.raises(JobError, match=r"nothing matches .*\*\.webp"):
        cut(tmp_path / "*.webp", KINDS)
    with pytest.raises(JobError, match="nowhere does not exist"):
        cut(tmp_path / "nowhere", KINDS)
