"""Tars in img2dataset's layout: what is read of whole and of broken ones."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from openclip_triton.bulk.inputs.tars import Tar
from openclip_triton.bulk.samples import IMAGES, KINDS, TEXTS, Kind, Sample

from tests.client.jobs import caption, image, keys, members, write_tar

BLOCK = 512


def read(path: Path, kinds: tuple[Kind, ...] = KINDS, *, metadata: bool = False) -> list[Sample]:
    [partition] = Tar(str(path), kinds, metadata).partitions()
    return list(partition.samples())


def codes(samples: list[Sample]) -> dict[str, str]:
    return {sample.key: sample.problem.code for sample in samples if sample.problem}


def test_the_members_of_a_key_are_a_sample(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", members(["000", "001"]))
    assert read(tar) == [Sample(key, image(key), caption(key)) for key in ("000", "001")]
    assert read(tar, (IMAGES,)) == [Sample(key, image(key)) for key in ("000", "001")]
    assert read(tar, (TEXTS,)) == [Sample(key, text=caption(key)) for key in ("000", "001")]


def test_what_is_an_image_is_told_by_the_ending(tmp_path: Path) -> None:
    found = read(
        write_tar(
            tmp_path / "a.tar",
            [
                ("README", b"no sample"),
                (".hidden", b"no sample"),
                ("x/a.seg.png", b"mask"), ("x/a.PNG", b"image"), ("x/a.jpg", b"second image"),
                ("y/a.webp", b"another"),
            ],
        ),
        (IMAGES,),
    )  # fmt: skip
    assert found == [Sample("x/a", b"image"), Sample("y/a", b"another")]


def test_the_version_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    versions = set()
    for count in (1, 20):
        write_tar(path, members(keys(count)))
        [partition] = Tar(str(path), KINDS).partitions()
        assert partition.source == str(path)
        versions.add(partition.version)
    assert len(versions) == 2


def cut_in_an_image(tar: bytes) -> bytes:
    return tar[: tar.rindex(b"image 000000003") + 4]


def cut_in_a_caption(tar: bytes) -> bytes:
    return tar[: tar.rindex(b"caption 000000003") + 4]


def cut_in_the_json(tar: bytes) -> bytes:
    return tar[: tar.rindex(b"000000003.json") + BLOCK]


def cut_in_a_head(tar: bytes) -> bytes:
    return tar[: tar.rindex(b"000000003.jpg") + 100]


def cut_between_samples(tar: bytes) -> bytes:
    return tar[: tar.rindex(b"000000003.jpg")]


def damaged(tar: bytes) -> bytes:
    start = tar.rindex(b"000000003.jpg")
    return tar[:start] + b"\xff" * BLOCK + tar[start + BLOCK :]


def torn_gzip(tar: bytes) -> bytes:
    packed = gzip.compress(tar, 0)
    return packed[: packed.rindex(b"image 000000003") + 4]


WHOLE = {f"00000000{number}" for number in range(3)}


@pytest.mark.parametrize(
    ("breaks", "broken"),
    [
        (cut_in_an_image, "000000003"),
        (cut_in_a_caption, "000000003"),
        (cut_in_the_json, "000000003"),
        (cut_in_a_head, None),
        (cut_between_samples, None),
        (damaged, None),
        (torn_gzip, "000000003"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_tar_gives_what_is_whole_and_names_the_rest(
    tmp_path: Path, breaks: Callable[[bytes], bytes], broken: str | None
) -> None:
    """The samples are the same whatever is read of them: halves made by two jobs line up."""
    path = tmp_path / ("a.tar.gz" if breaks is torn_gzip else "a.tar")
    path.write_bytes(breaks(write_tar(tmp_path / "whole", members(keys(5))).read_bytes()))
    found = read(path)
    assert {sample.key for sample in found if not sample.problem} >= WHOLE - {"000000002"}
    [last] = codes(found).items()
    assert last[1] == "broken_tar"
    if broken is not None:
        assert last[0] == broken
        assert {sample.key for sample in found if not sample.problem} == WHOLE
    for kind in KINDS:
        for with_metadata in (False, True):
            half = read(path, (kind,), metadata=with_metadata)
            assert [sample.key for sample in half] == [sample.key for sample in found]


@pytest.mark.parametrize("data", [b"", b"no tar", b"x" * 2000, b"\x1f\x8b nearly gzip"])
def test_what_is_not_a_tar_is_one_problem(tmp_path: Path, data: bytes) -> None:
    for name in ("a.tar", "a.tar.gz"):
        (tmp_path / name).write_bytes(data)
        assert codes(read(tmp_path / name)) == {str(tmp_path / name): "broken_tar"}


def test_samples_that_lack_a_part_or_come_twice_are_problems(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        [
            *members(["0"]),
            ("1.jpg", image("1")),
            ("2.txt", b"caption 2"),
            *members(["0"]), *members(["0"]),
            *members(["3"]),
        ],
    )  # fmt: skip
    found = read(path)
    assert [sample.key for sample in found] == ["0", "1", "2", "0", "0", "3"]
    problems = [sample.problem.code if sample.problem else "" for sample in found]
    assert problems == ["", "no_caption", "no_image", "duplicate_key", "duplicate_key", ""]
    assert codes(read(path, (IMAGES,))) == {"2": "no_image", "0": "duplicate_key"}
    assert codes(read(path, (TEXTS,))) == {"1": "no_caption", "0": "duplicate_key"}


def test_of_a_huge_member_no_more_is_read_than_the_stream_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openclip_triton.bulk.inputs.tars.MAX_BYTES", 10)
    found = read(
        write_tar(tmp_path / "a.tar", [("0.jpg", b"x" * 1000), *members(["1"])]), (IMAGES,)
    )
    assert found == [Sample("0", b"x" * 11), Sample("1", image("1"))]


def test_a_tar_may_be_compressed(tmp_path: Path) -> None:
    for name in ("a.tar.gz", "a.tgz", "A.TGZ"):
        assert len(read(write_tar(tmp_path / name, members(keys(30)), "w:gz"))) == 30
