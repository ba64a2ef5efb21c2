"""The log: one line a request, in either form, and never what was sent in."""

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import grpc
import pytest
from _pytest.logging import LogCaptureHandler

from gateway.telemetry.logs import MOST_WAITING, logging_to_stderr
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory, Outside
from tests.gateway.frames import Connection
from tests.gateway.hostile import tiff_of_numbers
from tests.items import RED_CIRCLE, b64, data_url

QUIET = ("/livez", "/", "/playground/main.js", "/playground.json")  # a probe, and a browser's page
SECRET = "xylophone"  # noqa: S105 - a text that no line may hold


def ask(client: GatewayClient) -> None:
    """Four requests that run a model, and those that are no news."""
    both = {"input": [SECRET, data_url(RED_CIRCLE)]}
    assert client.post("/v1/embeddings", json=both, headers={"x-request-id": "mine"}).is_success
    wrong = {"input": [SECRET, "data:image/png;base64,AAAA"]}
    assert client.post("/v1/embeddings", json=wrong).status_code == 400
    assert all(client.get(path).is_success for path in QUIET)
    with grpc.insecure_channel(client.grpc_address) as channel:
        stub = clip_pb2_grpc.ClipServiceStub(channel)
        items = [clip_pb2.Item(text=SECRET), clip_pb2.Item(image=RED_CIRCLE)]
        stub.Embed(clip_pb2.EmbedRequest(input=items))
        entry = clip_pb2.StreamItem(id="a", item=items[0])
        list(stub.EmbedStream(iter([clip_pb2.EmbedStreamRequest(items=[entry])])))


def lines(log: Path) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in told if line["logger"] == "gateway.request"]


def test_one_json_line_for_each_request(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    settings = {"triton_address": triton.addresses.grpc, "log_format": "json"}
    with start_gateway(Outside(log=log), **settings) as client:
        ask(client)
    mixed, wrong, unary, stream = lines(log)
    assert mixed["message"] == "/v1/embeddings 200"
    assert mixed["level"] == "info"
    assert mixed["request_id"] == "mine"
    assert (mixed["protocol"], mixed["model"]) == ("rest", "demo")
    assert mixed["texts"] == mixed["images"] == 1
    assert {"ms", "decode_ms", "tokenize_ms", "queue_ms", "infer_ms"} <= mixed.keys()
    # The text and the image are encoded at the same time, and each counts.
    assert 2 * mixed["ms"] >= mixed["infer_ms"]
    assert (wrong["code"], wrong["error"]) == ("400", "invalid_image")
    assert (unary["operation"], unary["code"], unary["protocol"]) == ("Embed", "OK", "grpc")
    assert stream["operation"] == "EmbedStream"
    assert not any("trace_id" in line for line in (mixed, wrong, unary, stream))
    text = log.read_text()
    assert SECRET not in text
    assert b64(RED_CIRCLE)[:40] not in text


def test_lines_for_people(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with start_gateway(Outside(log=log), triton_address=triton.addresses.grpc) as client:
        ask(client)
    text = log.read_text()
    [line] = [line for line in text.splitlines() if "/v1/embeddings 200" in line]
    assert "request_id=mine" in line
    assert "INFO" in line
    assert "model=demo" in line
    assert "livez" not in text
    assert "playground" not in text
    assert SECRET not in text


def test_a_broken_form_is_one_line(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with start_gateway(Outside(log=log), triton_address=triton.addresses.grpc) as client:
        kind = {"content-type": "multipart/form-data; boundary=b"}
        broken = client.post("/v1/embeddings/image", content=b"--bx\r\n\r\nx", headers=kind)
    assert broken.status_code == 400
    text = log.read_text()
    assert len([line for line in text.splitlines() if "/v1/embeddings/image 400" in line]) == 1
    assert "boundary" not in text


def test_metadata_that_is_no_text_is_no_line(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with (
        start_gateway(Outside(log=log), triton_address=triton.addresses.grpc) as client,
        Connection(client.grpc_address) as connection,
    ):
        path = "/openclip.v1.ClipService/ListModels"
        for where, key in ((path, f"Bearer {SECRET}\xff"), (f"/{SECRET}\xff\n", "")):
            stream = connection.call(where, {"authorization": key})
            connection.send(stream, b"")
            connection.settle(1.0)
    text = log.read_text()
    assert "ListModels OK" in text
    assert SECRET not in text


@pytest.mark.parametrize("processes", [0, 1])
def test_what_pillow_says_of_an_image_is_no_line(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path, processes: int
) -> None:
    log = tmp_path / "log"
    os.mkfifo(log)  # decoding processes write to no file
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    image = tiff_of_numbers(277, 4, 1, 0)  # eight samples for each pixel
    settings = {"triton_address": triton.addresses.grpc, "decode_processes": processes}
    with start_gateway(Outside(log=log), **settings) as client:
        kind = {"content-type": "image/tiff"}
        assert client.post("/v1/embeddings/image", content=image, headers=kind).status_code == 400
    text = os.read(reader, 2**16).decode()
    os.close(reader)
    assert "/v1/embeddings/image 400" in text
    assert "samples" not in text


@pytest.mark.parametrize(("level", "quiet", "requests"), [("debug", 1, 4), ("warning", 0, 0)])
def test_levels(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path,
    level: str, quiet: int, requests: int,
) -> None:  # fmt: skip
    log = tmp_path / "log"
    settings = {"triton_address": triton.addresses.grpc, "log_format": "json"}
    with start_gateway(Outside(log=log), **settings, log_level=level) as client:
        ask(client)
    found = lines(log)
    routes = {path.replace("main.js", "{name:path}") for path in QUIET}
    told = [line["operation"] for line in found if line.get("operation") in routes]
    assert set(told) == (routes if quiet else set())
    assert len(found) - len(told) == requests


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    changed = [logging.getLogger(), logging.getLogger("gateway")]
    levels = [each.level for each in changed]
    yield logging.getLogger("gateway.test_logs")
    for each, level in zip(changed, levels, strict=True):
        each.setLevel(level)


def test_errors_come_with_their_traceback(
    logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    with logging_to_stderr("info", "json"):
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            logger.exception("failed")
    [line] = map(json.loads, capfd.readouterr().err.splitlines())
    assert line["level"] == "error"
    assert "ZeroDivisionError" in line["exception"]


def test_what_waits_is_written_at_the_end(
    logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    with logging_to_stderr("info", "console"):
        for number in range(100):
            logger.info("line %d", number)
    told = capfd.readouterr().err.splitlines()
    assert [line.rpartition(" ")[2] for line in told] == [str(number) for number in range(100)]


def test_what_is_no_text_makes_no_line_that_is_no_json(
    logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    with logging_to_stderr("info", "json"):
        logger.info("%s cannot be read", os.fsdecode(b"caf\xe9.yaml"))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogCaptureHandler):
            handler.reset()  # half a character cannot be sent to another test process
    [line] = map(json.loads, capfd.readouterr().err.splitlines())
    assert line["message"] == "caf\\udce9.yaml cannot be read"


def test_what_waits_for_a_slow_terminal_is_bounded(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.telemetry.logs.LAST_S", 60)
    read: list[str] = []
    with unread_stderr(monkeypatch) as terminal:
        reader = threading.Thread(target=lambda: read.extend(terminal))
        with logging_to_stderr("info", "console"):
            for number in range(3 * MOST_WAITING):
                logger.info("line %d", number)
            reader.start()
    reader.join()
    terminal.close()
    # One part may have been in the writer's hands.
    assert MOST_WAITING <= len(read) <= 2 * MOST_WAITING


def test_a_pipe_that_nobody_reads_does_not_hold_up_the_end(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.telemetry.logs.LAST_S", 0.1)
    with unread_stderr(monkeypatch) as terminal:
        with logging_to_stderr("info", "console"):
            for number in range(MOST_WAITING):
                logger.info("line %d", number)
        [writer] = [each for each in threading.enumerate() if each.name == "log"]
        while writer.is_alive():  # it was held up all the time, and runs again now
            os.read(terminal.fileno(), 65_536)
            writer.join(0.01)
    terminal.close()


@contextlib.contextmanager
def unread_stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A pipe as standard error; its other end, to be read by whoever comes."""
    reading, writing = os.pipe()
    terminal, stderr = os.fdopen(reading), os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stderr", stderr)
    try:
        yield terminal
    finally:
        monkeypatch.undo()
        stderr.close()


def test_a_line_that_cannot_be_formatted_costs_itself_alone(
    logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    with logging_to_stderr("info", "console"):
        logger.info("first", extra={"request": "no record"})
        logger.info("next")
    first, second = capfd.readouterr().err.splitlines()
    assert "could not be formatted" in first
    assert second.endswith("next")
