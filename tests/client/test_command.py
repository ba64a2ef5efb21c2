"""The command against the real service: outputs, messages and exit statuses."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from openclip_triton import Client

from tests.client.conftest import command, draw, environment, start
from tests.conftest import SAMPLES, killed_after

LABELS = "red circle, blue star, green heart"


def test_images_become_vectors(real_address: str, real: Client, tmp_path: Path) -> None:
    ran = command(real_address, "embed-images", SAMPLES, "--output", tmp_path / "out.npy")
    assert ran.returncode == 0, ran.stderr
    assert "12 of 12" in ran.stderr
    paths = sorted(SAMPLES.iterdir())
    assert (tmp_path / "out.paths.txt").read_text().splitlines() == [str(path) for path in paths]
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found, real.embed_images(paths), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "out.paths.txt"]


def test_a_folder_for_clip_retrieval(real_address: str, tmp_path: Path) -> None:
    ran = command(
        real_address, "embed-images", SAMPLES, "-o", tmp_path / "out", "--shard-size", 5, "-q"
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    shapes = [np.load(path).shape for path in sorted((tmp_path / "out/img_emb").iterdir())]
    assert shapes == [(5, 64), (5, 64), (2, 64)]
    metadata = sorted((tmp_path / "out/metadata").iterdir())
    listed = [path for file in metadata for path in pq.read_table(file)["image_path"].to_pylist()]
    assert listed == sorted(str(path) for path in SAMPLES.iterdir())


def test_the_extensions_can_be_chosen(address: str, tmp_path: Path) -> None:
    for name in ("a.avif", "b.AVIF", "c.png", "d.heic"):
        (tmp_path / name).write_bytes(b"picture")
    ran = command(
        address, "embed-images", ".", "-o", "out/v.npy", "--extensions", ".AVIF, heic",
        cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    listed = (tmp_path / "out/v.paths.txt").read_text().splitlines()
    assert listed == ["a.avif", "b.AVIF", "d.heic"]


def test_bad_files_are_listed_and_have_no_row(real_address: str, tmp_path: Path) -> None:
    bad = frozenset(range(3, 100, 20))
    paths = draw(tmp_path / "pictures", 100, bad=bad)
    (tmp_path / "pictures/notes.txt").write_text("not an image")
    arguments = ("embed-images", tmp_path / "pictures", "-o", tmp_path / "out.parquet")
    ran = command(real_address, *arguments)
    assert ran.returncode == 1
    assert "5 images failed" in ran.stderr
    assert "1 file passed over" in ran.stderr
    failed = (tmp_path / "out.parquet.failed.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in failed] == [
        str(paths[number]) for number in sorted(bad)
    ]
    assert all(str(paths[number]) in ran.stderr for number in bad)
    assert all(line.split("\t")[1].startswith("invalid_image: ") for line in failed)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["path"].to_pylist() == [str(p) for n, p in enumerate(paths) if n not in bad]
    assert found.schema.metadata[b"model"] == b"demo"
    assert command(real_address, *arguments, "--allow-failures").returncode == 0
    assert not (tmp_path / "out.parquet.progress").exists()


def test_texts_become_vectors(real_address: str, real: Client, tmp_path: Path) -> None:
    texts = ["red circle", "blue star", "red circle", "word " * 100]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    ran = command(
        real_address, "embed-text", "texts.txt", "-o", "out/texts.npy", "--dimensions", 16,
        cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "1 text cut to the context length" in ran.stderr
    expected = real.embed_texts(texts, dimensions=16)
    np.testing.assert_allclose(np.load(tmp_path / "out/texts.npy"), expected, atol=1e-5)
    assert (tmp_path / "out/texts.texts.txt").read_text().splitlines() == texts


def test_failed_texts_are_named_by_line(real_address: str, tmp_path: Path) -> None:
    ran = command(
        real_address, "embed-text", "-", "-o", tmp_path / "out.npy", "--no-truncate",
        typed="one\n\n" + "word " * 100 + "\n",
    )  # fmt: skip
    assert ran.returncode == 1
    failed = (tmp_path / "out.npy.failed.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in failed] == ["line 2", "line 3"]
    assert len(np.load(tmp_path / "out.npy")) == 1


def test_texts_are_printed_in_order(real_address: str, real: Client) -> None:
    ran = command(real_address, "embed-text", "-", typed="red circle\n\nblue star\n")
    first, empty, last = map(json.loads, ran.stdout.splitlines())
    assert ran.returncode == 1
    expected = real.embed_texts(["red circle", "blue star"])
    np.testing.assert_allclose([first["embedding"], last["embedding"]], expected, atol=1e-5)
    assert (empty["index"], empty["error"]["code"]) == (1, "invalid_request")


def test_a_reader_that_leaves_early_sees_no_traceback(address: str, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("".join(f"text {number}\n" for number in range(5_000)))
    running = start(address, "embed-text", tmp_path / "texts.txt")
    assert running.stdout is not None
    assert running.stderr is not None
    with killed_after(60, running):
        assert json.loads(running.stdout.readline())["index"] == 0
        running.stdout.close()
        assert (running.stderr.read(), running.wait()) == ("", 1)
    running.stderr.close()


def test_bytes_that_are_no_text_are_a_failure_of_their_line(
    real_address: str, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_bytes("grün\n\xff\nlast\n".encode("latin-1"))
    ran = command(real_address, "embed-text", tmp_path / "texts.txt")
    first, second, last = map(json.loads, ran.stdout.splitlines())
    assert [first["error"]["code"], second["error"]["code"]] == ["unreadable_file"] * 2
    assert last["text"] == "last"
    ran = command(real_address, "embed-text", tmp_path / "texts.txt", "-o", tmp_path / "v.npy")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert (tmp_path / "v.texts.txt").read_text() == "last\n"
    assert len((tmp_path / "v.npy.failed.txt").read_text().splitlines()) == 2


def test_images_are_classified(real_address: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text(LABELS.replace(", ", "\n") + "\n")
    template = ("--template", "a photo of a {}.")
    for how in (("--labels", LABELS), ("--labels-file", labels)):
        ran = command(
            real_address, "classify", SAMPLES / "red-circle.png", SAMPLES / "blue-star.jpg",
            *how, *template, "--top-k", 1,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert re.search(r"red-circle.png +red circle +1\.0000 +0\.\d{4}", ran.stdout)
        assert re.search(r"blue-star.jpg +blue star +", ran.stdout)
    ran = command(real_address, "classify", SAMPLES, "--labels", LABELS, *template, "--json")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["path"] for line in lines] == sorted(str(path) for path in SAMPLES.iterdir())
    assert len(lines[0]["predictions"]) == 3


def test_a_bad_image_does_not_keep_others_from_their_labels(
    real_address: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    os.mkfifo(tmp_path / "pipe.png")
    ran = command(
        real_address, "classify", tmp_path / "bad.png", tmp_path / "pipe.png",
        SAMPLES / "red-circle.png",
        "--labels", LABELS,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "bad.png: " in ran.stderr
    assert "images[0]" not in ran.stderr  # the place in a call that the user has not made
    assert "pipe.png: not a regular file" in ran.stderr
    assert "red circle" in ran.stdout


def test_models_are_listed(real_address: str) -> None:
    assert re.search(r"demo .* 64 +64 px", command(real_address, "models").stdout)
    [model] = command(real_address, "models", "--json").stdout.splitlines()
    assert json.loads(model)["id"] == "demo"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("embed-images", SAMPLES, "-o", "v.csv"), 2, "name a .npy or .parquet file"),
        (("embed-images", SAMPLES, "-o", "."), 2, "name a file or a folder"),
        (("embed-images", "/nowhere", "-o", "v.npy"), 2, "does not exist"),
        (("embed-images", "empty", "-o", "v.npy"), 2, "no images found; 1 file passed over"),
        (("embed-images", SAMPLES, "-o", "v.npy", "--dtype", "int8"), 2, "not one of 'float32'"),
        (("embed-images", SAMPLES, "-o", "there.npy"), 2, "exists already; give --overwrite"),
        (("embed-images", SAMPLES, "-o", "v.npy", "--model", "nope"), 1, "'nope' is not served"),
        (("embed-images", SAMPLES, "-o", "empty/a.txt/v.npy"), 2, "empty/a.txt is not a folder"),
        (("embed-text", "nowhere.txt"), 2, "not a file"),
        (("classify", SAMPLES), 2, "give either --labels"),
        (("classify", SAMPLES, "--labels", "a", "--template", "none"), 1, "'none' must hold {}"),
        (("classify", SAMPLES, "--labels-file", "latin.txt"), 2, "latin.txt is not UTF-8"),
        (("classify", SAMPLES, "--label-set", "nope"), 1, "nope"),
        (("models", "--server", "127.0.0.1:1"), 1, "no connection to 127.0.0.1:1"),
    ],
)
def test_errors_are_told_without_a_traceback(
    real_address: str, tmp_path: Path, arguments: tuple[object, ...], status: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/a.txt").write_text("")
    (tmp_path / "there.npy").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes("grün".encode("latin-1"))
    ran = command(real_address, *arguments, cwd=tmp_path)
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", ran.stderr).split())
    assert ran.returncode == status
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "v.npy").exists()
    if status == 1:
        assert len(ran.stderr.splitlines()) == 1


def test_nothing_is_left_of_a_run_that_could_not_begin(real_address: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command(real_address, "embed-images", tmp_path / "empty", "-o", tmp_path / "v.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    "name", ["embed-text", "embed-images", "embed-pairs", "classify", "models"]
)
def test_help_tells_of_the_connection(name: str) -> None:
    shown = command("", name, "--help").stdout
    assert "--server" in shown
    assert "OPENCLIP_API_KEY" in shown


def test_help_loads_neither_numpy_nor_grpc() -> None:
    code = "import sys, openclip_triton.command.cli; print(*{'numpy', 'grpc'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], env=environment(""), capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"\n"), done.stderr


def test_the_version_is_told() -> None:
    ran = command("", "--version")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(
        r"openclip-triton (\d+\.\d+\.\d+|of a checkout, not installed)\n", ran.stdout
    )


def test_a_terminal_gets_a_bar(real_address: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "openclip_triton", "embed-images", SAMPLES,
         "-o", tmp_path / "v.npy"],
        env=environment(real_address) | {"TERM": "xterm", "COLUMNS": "120"}, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    told = b""
    with killed_after(60, process):
        while True:
            try:
                told += os.read(ours, 65536)
            except OSError:  # the other end was closed
                break
    os.close(ours)
    assert process.wait(30) == 0
    assert b"12/12" in told
    assert b"0 failed" in told
