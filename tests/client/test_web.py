"""Inputs of a web server, through fsspec and aiohttp: whole files, ranges, and its listings."""

import http.server
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from openclip_triton import Client
from openclip_triton.bulk.samples import IMAGES, KINDS, Kind

from tests.client.fake import Fake, vector_of
from tests.client.jobs import caption, embed, image, keys, members, write_parquet, write_tar

pytest.importorskip("aiohttp", reason="fsspec opens http:// with aiohttp")

FILES = 5


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, with ranges, and counts the requests."""

    protocol_version = "HTTP/1.1"
    seen: Counter[str]

    def do_GET(self) -> None:
        if self.command == "GET":
            self.seen[self.path] += 1
        path = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not wanted or not path.is_file():
            super().do_GET()
            return
        data, first, last = path.read_bytes(), int(wanted[1]), int(wanted[2])
        part = data[first : last + 1]
        self.send_response(http.HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Takes no notice of a client that hangs up, as fsspec does when it has read what it wants."""

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture
def seen() -> Counter[str]:
    """Number of GETs by path."""
    return Counter()


@pytest.fixture
def web(tmp_path: Path, seen: Counter[str]) -> Iterator[str]:
    """The URL of a server with two tars in /tars, pictures with captions in /files, and tables."""
    root = tmp_path / "web"
    handler = type("Counted", (Handler,), {"seen": seen})
    server = Server(("127.0.0.1", 0), partial(handler, directory=str(root)))
    url = f"http://127.0.0.1:{server.server_port}"
    for tar in range(2):
        write_tar(root / f"tars/{tar:05}.tar", members(keys(20, tar)))
    (root / "files").mkdir()
    for number in range(FILES):
        (root / f"files/{number}.jpg").write_bytes(image(str(number)))
        (root / f"files/{number}.txt").write_text(caption(str(number)))
    urls = [f"{url}/files/{number}.jpg" for number in range(FILES)]
    write_parquet(root / "a.parquet", {"url": urls, "caption": urls})
    (root / "a.csv").write_text("url,caption\n" + "".join(f"{each},{each}\n" for each in urls))
    (root / "list.txt").write_text("\n".join(urls))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield url
    server.shutdown()
    server.server_close()


PICTURES = [image(str(number)) for number in range(FILES)]
TAR = [image(key) for key in keys(20)]
TARS = [*TAR, *(image(key) for key in keys(20, 1))]


@pytest.mark.parametrize("kinds", [(IMAGES,), KINDS])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("tars/00000.tar", TAR),
        ("tars/", TARS),
        ("tars/*.tar", TARS),
        ("files/", PICTURES),
        ("files/*.jpg", PICTURES),
        ("files/3.jpg", PICTURES[3:4]),
        ("list.txt", PICTURES),
        ("a.parquet", PICTURES),
        ("a.csv", PICTURES),
    ],
)
def test_an_input_of_a_web_server(
    client: Client,
    web: str,
    tmp_path: Path,
    given: str,
    expected: Sequence[bytes],
    kinds: tuple[Kind, ...],
) -> None:
    summary = embed(client, f"{web}/{given}", tmp_path / "v.parquet", kinds)
    assert (summary.done, summary.failed) == (len(expected), 0)
    column = "embedding" if kinds == (IMAGES,) else "image_embedding"
    vectors = pq.read_table(tmp_path / "v.parquet")[column].to_pylist()
    np.testing.assert_array_equal(vectors, np.stack([vector_of(each) for each in expected]))


def test_each_picture_of_a_list_is_fetched_once(
    client: Client, web: str, seen: Counter[str], tmp_path: Path
) -> None:
    embed(client, f"{web}/list.txt", tmp_path / "v.npy", (IMAGES,))
    assert {seen[f"/files/{number}.jpg"] for number in range(FILES)} == {1}


def test_a_tar_that_changed_is_embedded_again(
    client: Client, fake: Fake, web: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    embed(client, f"{web}/tars/", out, (IMAGES,))
    fake.seen.clear()
    embed(client, f"{web}/tars/", out, (IMAGES,))
    assert not fake.seen
    os.utime(tmp_path / "web/tars/00001.tar", (0, 0))  # of the same size: all it has is its time
    embed(client, f"{web}/tars/", out, (IMAGES,))
    assert set(fake.seen) == {image(key) for key in keys(20, 1)}


def test_what_is_not_there_is_said(client: Client, web: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=rf"{web}/gone\.tar does not exist"):
        embed(client, f"{web}/gone.tar", tmp_path / "out", (IMAGES,))
    summary = embed(client, f"{web}/gone.jpg", tmp_path / "v.npy", (IMAGES,))
    assert (summary.done, summary.failed) == (0, 1)
    [failed] = (tmp_path / "v.npy.failed.txt").read_text().splitlines()
    assert failed.startswith(f"{web}/gone.jpg\tunreadable_file: ")
