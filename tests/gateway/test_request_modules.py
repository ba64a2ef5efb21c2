"""docs/lifecycle.md names the modules that a request passes, in order, as they are."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import grpc
import httpx
import pytest
import uvicorn

import gateway
from gateway.app import create_app, load
from gateway.process.serving import config
from gateway.settings import Settings
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import REPOSITORY, ROOT, free_port
from tests.gateway.waiting import wait_until
from tests.items import RED_CIRCLE, data_url

PACKAGE = f"{Path(gateway.__file__).parent}/"
# Tasks of the process, which go on whether or not there is a request.
BACKGROUND = {"_watch", "_follow", "_probe", "_tick", "follow", "watch", "release_unused"}


class Passage:
    """Notes the modules of the gateway that are entered while it is on, in order."""

    def __init__(self) -> None:
        self.modules: dict[str, None] = {}
        self.calls = 0  # of functions of the gateway, on or not
        self.on = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """A profile function, for every thread that starts from now on."""
        if event != "call" or frame.f_code.co_name == "<module>":
            return
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE) and not _background(frame):
            self.calls += 1
            if self.on:
                self.modules.setdefault(path.removeprefix(PACKAGE), None)


def _background(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in BACKGROUND:
            return True
        frame = frame.f_back
    return False


@pytest.fixture(scope="module")
def passage() -> Iterator[Passage]:
    noted = Passage()
    threading.setprofile(noted)
    yield noted
    threading.setprofile(None)


@pytest.fixture(scope="module")
def addresses(passage: Passage, triton: TritonServer) -> Iterator[tuple[str, str]]:
    """The URL and the gRPC address of a gateway in a thread of this process, which is ready."""
    settings = Settings(
        model_repository=REPOSITORY,
        label_sets=ROOT / "deploy" / "labels",
        triton_address=triton.addresses.grpc,
        grpc_port=free_port(),
        triton_verify_s=3600,
        reload_s=0,
        text_cache_bytes=0,
    )
    server = uvicorn.Server(config(create_app(settings, load(settings)), settings))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            wait_until(lambda: server.started)
            wait_until(lambda: httpx.get(f"{url}/readyz", timeout=60).status_code == httpx.codes.OK)
            yield url, f"127.0.0.1:{settings.grpc_port}"
        finally:
            server.should_exit = True
            thread.join()


def rest_text(url: str, address: str) -> None:
    body = {"model": "demo", "input": "a red circle"}
    httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).raise_for_status()


def rest_image(url: str, address: str) -> None:
    headers = {"content-type": "image/png"}
    httpx.post(
        f"{url}/v1/embeddings/image", content=RED_CIRCLE, headers=headers, timeout=60
    ).raise_for_status()


def zero_shot(url: str, address: str) -> None:
    image = data_url(RED_CIRCLE)
    body = {"image": image, "label_set": "shapes"}
    httpx.post(f"{url}/v1/zero-shot", json=body, timeout=60).raise_for_status()


def stream_item(url: str, address: str) -> None:
    item = clip_pb2.StreamItem(id="1", item=clip_pb2.Item(text="a red circle"))
    with grpc.insecure_channel(address) as channel:
        stub = clip_pb2_grpc.ClipServiceStub(channel)
        [response] = stub.EmbedStream(iter([clip_pb2.EmbedStreamRequest(items=[item])]))
    assert response.results[0].HasField("embedding")


KINDS: dict[str, Callable[[str, str], None]] = {
    "REST text": rest_text,
    "REST image": rest_image,
    "Zero-shot with a label set": zero_shot,
    "Stream item": stream_item,
}


def test_the_page_names_each_kind() -> None:
    assert documented().keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_names_what_a_request_passes(
    kind: str, passage: Passage, addresses: tuple[str, str]
) -> None:
    KINDS[kind](*addresses)  # what is done once only is done
    wait_until(lambda: settled(passage))
    passage.modules.clear()
    passage.on = True
    KINDS[kind](*addresses)
    wait_until(lambda: settled(passage))
    passage.on = False
    assert documented()[kind] == [name.removesuffix(".py") for name in passage.modules]


def settled(passage: Passage) -> bool:
    """Whether nothing was entered for a while: an answer is sent before a request ends."""
    before = passage.calls
    time.sleep(0.5)
    return passage.calls == before


def documented() -> dict[str, list[str]]:
    page = (ROOT / "docs" / "lifecycle.md").read_text()
    _, _, section = page.partition("## The modules that a request passes")
    section, _, _ = section.partition("\n## ")
    return {
        kind: re.findall(r"`([\w/]+)`", names)
        for kind, names in re.findall(
            r"^- \*\*(.+?)\*\*:(.+?)(?=^- |\Z)", section, re.MULTILINE | re.DOTALL
        )
    }
