"""OpenAI's files and batches: with its own client, through kills, by key, and within limits."""

import contextlib
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types import Batch

from server.launcher import TritonServer
from tests.conftest import COMMAND, GatewayClient, GatewayFactory, Outside
from tests.gateway.keyed import Keys, bearer
from tests.gateway.waiting import wait_until

ENDED = {"failed", "completed", "expired", "cancelled"}
BATCH_S = 120
DEEP = b"[" * 500 + b"]" * 500


def line(number: int, text: Any = None, **other: Any) -> dict[str, Any]:
    body = {"model": "demo", "input": f"{number} red circles" if text is None else text}
    return {
        "custom_id": f"id-{number}",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": body,
    } | other


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batches") / "folder"


@pytest.fixture(scope="module")
def service(
    triton: TritonServer, start_gateway: GatewayFactory, folder: Path
) -> Iterator[GatewayClient]:
    with start_gateway(
        triton_address=triton.addresses.grpc, batch_dir=folder, batch_max_lines=3_000
    ) as client:
        yield client


def client_of(api: httpx.Client, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api.base_url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(service: GatewayClient) -> Iterator[openai.OpenAI]:
    with client_of(service) as made:
        yield made


def begun(client: openai.OpenAI, content: bytes, **more: Any) -> Batch:
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", **more
    )


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    found: list[Batch] = []

    def over() -> bool:
        found.append(client.batches.retrieve(batch.id))
        return found[-1].status in ENDED

    wait_until(over, "the batch has not ended", BATCH_S)
    return found[-1]


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The lines of a file of results, by their ids, each of which is there once."""
    if file_id is None:
        return {}
    lines = [json.loads(each) for each in client.files.content(file_id).text.splitlines()]
    assert max(Counter(each["custom_id"] for each in lines).values()) == 1
    return {each["custom_id"]: each for each in lines}


def test_a_batch_is_answered_as_its_requests(
    client: openai.OpenAI, service: GatewayClient, folder: Path
) -> None:
    lines = [line(number) for number in range(70)]
    lines[3]["body"] = {"model": "nobody", "input": "x"}
    lines[5]["body"] = {"model": "demo", "input": ""}
    lines[6]["body"] |= {"dimensions": 8, "encoding_format": "base64"}
    batch = begun(client, jsonl(lines) + b"\n", metadata={"for": "a test"})
    assert batch.status == "validating"
    batch = ended(client, batch)
    assert batch.status == "completed"
    assert batch.metadata == {"for": "a test"}
    assert batch.request_counts
    assert batch.request_counts.model_dump() == {"total": 70, "completed": 68, "failed": 2}
    good, bad = results(client, batch.output_file_id), results(client, batch.error_file_id)
    assert set(bad) == {"id-3", "id-5"}
    assert good.keys() | bad.keys() == {each["custom_id"] for each in lines}
    assert (bad["id-3"]["response"]["status_code"], bad["id-3"]["error"]) == (404, None)
    assert bad["id-3"]["response"]["body"]["error"]["code"] == "model_not_found"
    assert bad["id-5"]["response"]["body"]["error"]["param"] == "input"
    expected = service.post("/v1/embeddings", json=lines[0]["body"]).json()
    answered = good["id-0"]["response"]
    assert answered["status_code"] == 200
    assert answered["body"].keys() == expected.keys()
    assert answered["body"]["usage"] == expected["usage"]
    np.testing.assert_allclose(
        answered["body"]["data"][0]["embedding"], expected["data"][0]["embedding"], atol=1e-5
    )
    assert isinstance(good["id-6"]["response"]["body"]["data"][0]["embedding"], str)
    counted = service.get("/metrics").text
    assert 'openclip_batch_lines_total{code="404",model=""} 1.0' in counted
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*")} == {0}


def test_files_and_batches_are_listed_page_by_page(client: openai.OpenAI) -> None:
    files = [client.files.create(file=b"{}\n", purpose="batch").id for _ in range(3)]
    assert [each.id for each in client.files.list(order="asc", limit=1)][-3:] == files
    assert [each.id for each in client.files.list(limit=2)][:3] == files[::-1]
    assert not list(client.files.list(purpose="vision"))
    kept = client.files.create(
        file=b"{}\n", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_600}
    )
    assert kept.expires_at == kept.created_at + 3_600
    batches = [begun(client, jsonl([line(1)])).id for _ in range(3)]
    assert [each.id for each in client.batches.list(limit=1)][:3] == batches[::-1]
    assert client.files.delete(files[0]).deleted
    with pytest.raises(openai.NotFoundError) as gone:
        client.files.retrieve(files[0])
    assert gone.value.code == "object_not_found"


@pytest.mark.parametrize(
    ("content", "code", "number"),
    [
        (b"", "empty_file", None),
        (b"\n  \n", "empty_file", None),
        (b"no json\n", "invalid_json_line", 1),
        (jsonl([line(1)]) + b'{"custom_id": "\xff"}\n', "invalid_json_line", 2),
        (b"[" * 100_000, "invalid_json_line", 1),
        (b'{"a":' * 100_000, "invalid_json_line", 1),
        (b"[]\n", "invalid_json_line", 1),
        (b"\n" + jsonl([line(1), line(1)]), "duplicate_custom_id", 3),
        (jsonl([line(1, custom_id=None)]), "invalid_value", 1),
        (jsonl([line(1, custom_id="x" * 513)]), "invalid_value", 1),
        (jsonl([line(1, method="GET")]), "invalid_method", 1),
        (jsonl([line(1, url="/v1/chat/completions")]), "url_mismatch", 1),
        (jsonl([line(1, body="x")]), "invalid_value", 1),
        (jsonl([line(1)]) + jsonl([line(2, "DEEP")]).replace(b'"DEEP"', DEEP), "invalid_value", 2),
        (b'{"custom_id": "a"}\n', "missing_required_parameter", 1),
        (jsonl([line(1), line(2, "x" * 2**22), line(3)]), "line_too_long", 2),
        (jsonl([line(number) for number in range(3_001)]), "too_many_tasks", None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_wrong_input_fails_the_batch(
    client: openai.OpenAI, content: bytes, code: str, number: int | None
) -> None:
    batch = ended(client, begun(client, content))
    assert batch.status == "failed"
    assert batch.errors
    assert batch.errors.data
    first = batch.errors.data[0]
    assert (first.code, first.line) == (code, number)
    assert batch.output_file_id is None


def test_dear_lines_end_in_the_error_file(client: openai.OpenAI) -> None:
    many = {"model": "demo", "input": ["x"] * 100_000}
    deep = {"model": "demo", "input": {"text": [[[[[[[[[["x"]]]]]]]]]]}}
    lines = [line(1, body=many), line(2, body=deep), line(3, "word " * 10_000), line(4)]
    batch = ended(client, begun(client, jsonl(lines)))
    bad = results(client, batch.error_file_id)
    codes = {name: each["response"]["status_code"] for name, each in bad.items()}
    assert codes == {"id-1": 413, "id-2": 400, "id-3": 413}
    assert set(results(client, batch.output_file_id)) == {"id-4"}


def test_cancelling_answers_every_line(client: openai.OpenAI) -> None:
    lines = [line(number, f"to be cancelled {number}") for number in range(3_000)]
    batch = begun(client, jsonl(lines))
    assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
    batch = ended(client, batch)
    assert batch.status == "cancelled"
    good, bad = results(client, batch.output_file_id), results(client, batch.error_file_id)
    assert not good.keys() & bad.keys()
    assert len(good) + len(bad) == 3_000
    assert {each["error"]["code"] for each in bad.values()} == {"batch_cancelled"}
    with pytest.raises(openai.BadRequestError, match="has ended"):
        client.batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("send", "code"),
    [
        (lambda client: client.files.retrieve("file-nothing"), "object_not_found"),
        (lambda client: client.files.retrieve("..%2f..%2flock"), "object_not_found"),
        (lambda client: client.files.content("file-" + "0" * 32), "object_not_found"),
        (lambda client: client.batches.retrieve("batch_none"), "object_not_found"),
        (lambda client: client.batches.cancel("batch_" + "0" * 32), "object_not_found"),
        (
            lambda client: client.batches.create(
                input_file_id="file-none", endpoint="/v1/embeddings", completion_window="24h"
            ),
            "object_not_found",
        ),
        (
            lambda client: client.batches.create(
                input_file_id="x", endpoint="/v1/responses", completion_window="24h"
            ),
            "invalid_request",
        ),
        (lambda client: client.files.create(file=b"x", purpose="assistants"), "invalid_request"),
        (lambda client: client.files.list(limit=0), "invalid_request"),
        (lambda client: client.files.list(after="file-x"), "object_not_found"),
        (lambda client: client.batches.list(limit=101), "invalid_request"),
        (
            lambda client: client.get("/batches?limit=00000000101", cast_to=object),
            "invalid_request",
        ),
        (lambda client: client.post("/files", cast_to=object, body={"a": 1}), "invalid_request"),
    ],
)
def test_wrong_requests(client: openai.OpenAI, send: Any, code: str) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        send(client)
    assert refused.value.code == code


def test_several_files_and_other_methods(service: GatewayClient) -> None:
    files = [("file", ("input.jsonl", b"{}"))] * 2
    error = service.post("/v1/files", files=files, data={"purpose": "batch"}).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "file")
    form = b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    kind = {"content-type": "Multipart/Form-Data; boundary=x"}
    error = service.post("/v1/files", content=form, headers=kind).json()["error"]
    assert error["message"].startswith("file: the form holds no file")
    assert error["param"] == "file"
    batch = {"input_file_id": "x", "endpoint": "/v1/embeddings", "completion_window": "24h"}
    error = service.post("/v1/batches", json=batch).json()["error"]
    assert (error["code"], error["param"]) == ("object_not_found", "input_file_id")
    response = service.put("/v1/files/x")
    assert (response.status_code, response.headers["allow"]) == (405, "DELETE, GET")


def test_slow_readers_hold_no_files(service: GatewayClient, client: openai.OpenAI) -> None:
    content = b"".join(b"%019d\n" % number for number in range(2**20))  # 20 MiB
    file = client.files.create(file=content, purpose="batch")
    path = f"/v1/files/{file.id}/content"
    assert service.get(path).content == content

    def open_files() -> list[str]:
        found = []
        for each in (Path("/proc") / str(service.process) / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(each.readlink()))
        return [each for each in found if file.id in each]

    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(20):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.settimeout(BATCH_S)
            reader.connect((service.base_url.host, service.base_url.port))
            reader.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            assert reader.recv(12) == b"HTTP/1.1 200"
            readers.append(reader)
        wait_until(lambda: not open_files(), "files stay open while nobody reads")
        client.files.delete(file.id)
        rest = b"".join(iter(lambda: readers[0].recv(2**20), b""))  # until the gateway hangs up
        head, _, body = rest.partition(b"\r\n\r\n")
        assert f"content-length: {len(content)}".encode() in head
        assert content.startswith(body)
        assert len(body) < len(content)
    assert service.get("/livez").status_code == 200


def test_it_is_off_by_default(api: GatewayClient) -> None:
    for method, path in (
        ("POST", "/v1/files"),
        ("GET", "/v1/files/x/content"),
        ("GET", "/v1/batches"),
    ):
        response = api.request(method, path)
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_enabled"


def test_a_killed_batch_goes_on_and_answers_every_line_once(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    lines = [line(number, f"killed {number}") for number in range(1_000)]
    folder = tmp_path / "batches"
    settings = {"triton_address": triton.addresses.grpc, "batch_dir": folder}
    killed = Outside(command=COMMAND, code=-signal.SIGKILL)
    with start_gateway(killed, **settings) as api, client_of(api) as client:
        batch = begun(client, jsonl(lines))
        space = folder / "all"

        def written() -> int:
            state = json.loads((space / f"{batch.id}.json").read_text())
            output = space / f"{state['output_id']}.jsonl"
            return output.read_bytes().count(b"\n") if output.exists() else 0

        wait_until(lambda: written() > 100, "the batch has not begun", BATCH_S)
        os.kill(api.process, signal.SIGKILL)
        assert 0 < written() < 1_000
    with start_gateway(**settings) as api, client_of(api) as client:
        batch = ended(client, batch)
        assert batch.status == "completed"
        good = results(client, batch.output_file_id)
        assert good.keys() == {each["custom_id"] for each in lines}
        assert batch.error_file_id is None


def test_a_key_sees_and_pays_for_its_own(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    keys = Keys(tmp_path / "keys.yaml")
    alice, bob = keys.add("alice", items_per_minute=1_000), keys.add("bob", items_per_minute=3)
    with start_gateway(
        triton_address=triton.addresses.grpc, batch_dir=tmp_path / "batches",
        api_keys_file=keys.path, batch_max_files=3, batch_max_bytes=200_000,
    ) as api, client_of(api, alice) as hers, client_of(api, bob) as his:  # fmt: skip
        batch = ended(hers, begun(hers, jsonl([line(number) for number in range(5)])))
        assert batch.output_file_id
        for see in (
            lambda: his.files.retrieve(batch.input_file_id),
            lambda: his.files.content(batch.output_file_id or ""),
            lambda: his.files.delete(batch.output_file_id or ""),
            lambda: his.batches.retrieve(batch.id),
            lambda: his.batches.cancel(batch.id),
            lambda: his.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/embeddings",
                completion_window="24h",
            ),
        ):  # fmt: skip
            with pytest.raises(openai.NotFoundError):
                see()
        assert not list(his.files.list())
        assert not list(his.batches.list())
        assert api.get("/v1/files").status_code == 401
        counted = api.get("/metrics", headers=bearer(alice)).text
        assert 'openclip_key_items_total{key="alice"} 5.0' in counted

        hers.files.create(file=b"{}\n", purpose="batch")
        with pytest.raises(openai.APIStatusError, match="GATEWAY_BATCH_MAX_FILES"):
            hers.files.create(file=b"{}\n", purpose="batch")
        with pytest.raises(openai.APIStatusError, match="GATEWAY_BATCH_MAX_BYTES"):
            his.files.create(file=b"x" * 200_000, purpose="batch")

        slow = begun(his, jsonl([line(number) for number in range(4)]))
        wait_until(lambda: his.batches.retrieve(slow.id).status == "in_progress")
        keys.revoke("bob")
        wait_until(lambda: api.get("/v1/models", headers=bearer(bob)).status_code == 401)
        path = tmp_path / "batches" / "key-bob" / f"{slow.id}.json"
        wait_until(lambda: json.loads(path.read_text())["batch"]["status"] == "failed")
        state = json.loads(path.read_text())["batch"]
        assert state["errors"]["data"][0]["code"] == "unauthenticated"
