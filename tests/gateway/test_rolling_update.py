"""A new version of a model is taken into service, and taken back, while requests run."""

import contextlib
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from export import versions
from export.errors import RepositoryError
from export.publish import repository, writer
from gateway.app import create_app, load
from gateway.inference.client import FakeInferClient
from gateway.models.manifest import Golden, Manifest, file_sha256, read_manifest
from gateway.settings import Settings
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import PLAIN, REPOSITORY, SAMPLES, GatewayClient, Outside, run_gateway
from tests.gateway.fakes import unit
from tests.gateway.proc import alive, catches, children
from tests.gateway.tritons import copied, extended, guarded, node
from tests.gateway.waiting import inflight, unfinished_request, wait_until
from tests.items import data_url

pytestmark = pytest.mark.slow

REQUESTS = int(os.environ.get("ROLLING_REQUESTS", "1500"))
SWITCH_S = 60.0
TEXTS = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("circle", "star")]
IMAGES = [(SAMPLES / name).read_bytes() for name in ("red-circle.png", "blue-star.jpg")]
LABELS = (
    "name: shapes\nlabels: [circle, star, square]\ntemplates: ['a red {}', 'a photo of a {}']\n"
)
OTHER = "ab" * 32  # the fingerprint of the second version

Vector = NDArray[np.float32]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of its own with the demo model."""
    return copied(tmp_path)


@pytest.fixture
def service(root: Path) -> Iterator[GatewayClient]:
    """Triton and a gateway on it."""
    with serving(root) as client:
        yield client


@contextlib.contextmanager
def serving(
    root: Path, outside: Outside | None = None, /, **settings: object
) -> Iterator[GatewayClient]:
    sets = root.parent / "label-sets"
    sets.mkdir()
    (sets / "shapes.yaml").write_text(LABELS)
    with (
        guarded(root) as triton,
        run_gateway(
            outside or Outside(),
            triton_address=triton.addresses.grpc,
            model_repository=root,
            label_sets=sets,
            text_cache_bytes=0,
            **{"triton_secret_file": root.parent / "secret"} | settings,
        ) as client,
    ):
        wait_until(lambda: client.get("/readyz").status_code == 200)
        # A worker that starts late would read what the test publishes.
        wait_until(lambda: all(catches(each, signal.SIGTERM) for each in children(client.process)))
        yield client


def publish(
    root: Path, version: int, *, golden: bool = True, keep: bool = True, same: bool = False
) -> Manifest:
    """A version that answers with the demo's vectors turned round, so that none can be mistaken.

    Where `golden` is false, its manifest promises the demo's own. With `same` it is the model that
    is served, under another number.
    """
    old = read_manifest(root / "demo.manifest.json")
    with writer.locked(root), writer.staging(root) as staged:
        towers = [old.triton.image.name, *(tower.name for tower in old.triton.text)]
        for tower in towers:
            folder = staged / tower / str(version)
            folder.mkdir(parents=True)
            shutil.copy(root / tower / "config.pbtxt", staged / tower)
            write = shutil.copy if same else negated
            write(root / tower / str(old.version) / "model.onnx", folder / "model.onnx")
        tokenizer = staged / f"demo.{version}.tokenizer.json"
        shutil.copy(root / old.tokenizer.file, tokenizer)
        files = [f"{tower}/{version}/model.onnx" for tower in towers]
        manifest = old.model_copy(
            update={
                "version": version,
                "card": None,
                "fingerprint": old.fingerprint if same else OTHER,
                "tokenizer": old.tokenizer.model_copy(update={"file": tokenizer.name}),
                "golden": turned(old.golden) if golden and not same else old.golden,
                "files": {name: file_sha256(staged / name) for name in [*files, tokenizer.name]},
            }
        )
        repository.publish(root, staged, manifest, keep=keep)
    return manifest


def negated(source: Path, target: Path) -> None:
    target.write_bytes(extended(source.read_bytes(), [node("Neg", ["before"], ["after"])]))


def turned(golden: Golden) -> Golden:
    return golden.model_copy(
        update={
            "text_features": tuple(-x for x in golden.text_features),
            "image_features": tuple(-x for x in golden.image_features),
        }
    )


def fingerprint(client: httpx.Client) -> str:
    return str(client.get("/v1/models/demo").json()["fingerprint"])


def packed(response: httpx.Response) -> Vector:
    vectors: Vector = np.frombuffer(response.content, "<f4")
    return vectors


@dataclass
class Load:
    """Steady requests over both protocols; each answer is compared with what its version gives."""

    client: GatewayClient
    known: dict[str, list[Vector]] = field(default_factory=dict)  # by fingerprint
    seen: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self) -> None:
        asked = range(len(TEXTS) + len(IMAGES))
        answers = [self.rest(self.client, number) for number in asked]
        [first] = {name for name, _ in answers}
        self.known = {
            first: [vector for _, vector in answers],
            OTHER: [-vector for _, vector in answers],
        }

    @property
    def total(self) -> int:
        return sum(self.seen.values())

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        asking = (self.ask_rest, self.ask_rest, self.ask_rpc)
        threads = [threading.Thread(target=target) for target in asking]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join(60)

    def ask_rest(self) -> None:
        with httpx.Client(base_url=self.client.base_url, timeout=60) as client:
            for number in self.numbers():
                try:
                    self.check(number, *self.rest(client, number))
                except Exception as error:
                    self.failures.append(f"REST: {error!r}")

    def ask_rpc(self) -> None:
        with grpc.insecure_channel(self.client.grpc_address) as channel:
            stub = clip_pb2_grpc.ClipServiceStub(channel)
            for number in self.numbers():
                try:
                    answer = stub.Embed(clip_pb2.EmbedRequest(input=[item(number)]), timeout=60)
                    vector = answer.results[0].embedding.vector
                    self.check(number, answer.fingerprint, np.frombuffer(vector, "<f4"))
                except Exception as error:
                    self.failures.append(f"gRPC: {error!r}")

    def numbers(self) -> Iterator[int]:
        number = 0
        while not self.stopped.is_set():
            yield number % (len(TEXTS) + len(IMAGES))
            number += 1

    def rest(self, client: httpx.Client, number: int) -> tuple[str, Vector]:
        if number < len(TEXTS):
            response = client.post("/v1/embeddings", json={"input": TEXTS[number], "model": "demo"})
            response.raise_for_status()
            vector = np.array(response.json()["data"][0]["embedding"], dtype=np.float32)
        else:
            response = client.post(
                "/v1/embeddings/image",
                content=IMAGES[number - len(TEXTS)],
                headers={"accept": "application/octet-stream"},
            )
            response.raise_for_status()
            vector = packed(response)
        return response.headers["x-model-fingerprint"], vector

    def check(self, number: int, name: str, vector: Vector) -> None:
        cosine = float(vector @ self.known[name][number])
        with self.lock:
            self.seen[name] = self.seen.get(name, 0) + 1
        if cosine < 0.9999:
            self.failures.append(f"{name[:6]}: a vector of another version ({cosine:.3f})")


def item(number: int) -> clip_pb2.Item:
    if number < len(TEXTS):
        return clip_pb2.Item(text=TEXTS[number])
    return clip_pb2.Item(image=IMAGES[number - len(TEXTS)])


def test_there_and_back_under_load_without_a_failed_request(
    root: Path, service: GatewayClient
) -> None:
    traffic = Load(service)
    traffic.learn()
    [first] = traffic.known.keys() - {OTHER}
    with traffic.running():
        wait_until(lambda: traffic.total > REQUESTS / 4 or traffic.failures)
        publish(root, 2)
        wait_until(lambda: fingerprint(service) == OTHER, "the new version")
        reached = traffic.total
        wait_until(lambda: traffic.total > reached + REQUESTS / 4 or traffic.failures)
        versions.use(root, "demo", 1)
        wait_until(lambda: fingerprint(service) == first, "the old version")
        wait_until(lambda: traffic.total > REQUESTS or traffic.failures)
    assert not traffic.failures, traffic.failures[:5]
    assert min(traffic.seen[first], traffic.seen[OTHER]) > REQUESTS / 8
    zero_shot = service.post(
        "/v1/zero-shot", json={"image": data_url(IMAGES[0]), "label_set": "shapes"}
    )
    assert zero_shot.json()["results"][0]["predictions"][0]["label"] == "circle"
    assert service.get("/readyz").status_code == 200


def test_without_tritons_secret_no_version_is_loaded(root: Path) -> None:
    with serving(root, reload_s=0, triton_secret_file="") as client:
        first = fingerprint(client)
        publish(root, 2)
        answer = client.post("/v1/admin/reload")
        assert answer.status_code == 409
        assert "GATEWAY_TRITON_SECRET_FILE is not set" in answer.text
        assert fingerprint(client) == first


def test_a_broken_version_is_refused_and_the_old_one_stays(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(root, reload_s=0) as client:
        first, vector = fingerprint(client), Load(client).rest(client, 0)[1]

        lines: list[str] = []

        def logged() -> str:
            lines.append(capfd.readouterr().err)
            return "".join(lines)

        def refused(*words: str) -> None:
            answer = client.post("/v1/admin/reload")
            assert answer.status_code == 409
            message = answer.json()["error"]["message"]
            assert all(word in message for word in (*words, "version 1 stays")), message
            wait_until(lambda: message in logged(), "the line in the log")
            found, again = Load(client).rest(client, 0)
            assert (found, client.get("/readyz").status_code) == (first, 200)
            np.testing.assert_allclose(again, vector, atol=1e-5)

        publish(root, 2, golden=False)
        refused("version 2", "golden vector")
        versions.use(root, "demo", 1)
        versions.drop(root, "demo", 2)
        publish(root, 3)
        (root / "demo.image" / "3" / "model.onnx").write_bytes(b"not a graph")
        refused("version 3", "demo.image")
        shutil.rmtree(root / "demo.image" / "3")
        refused("version 3", "demo.image")
        (root / "demo.manifest.json").write_text("{")
        assert client.post("/v1/admin/reload").status_code == 409
        (root / "demo.manifest.json").unlink()
        (root / "demo.1.version.json").rename(root / "demo.manifest.json")
        assert client.post("/v1/admin/reload").json()["models"][0]["version"] == 1
        publish(root, 4)
        assert client.post("/v1/admin/reload").json()["models"][0]["fingerprint"] == OTHER
        np.testing.assert_allclose(Load(client).rest(client, 0)[1], -vector, atol=1e-5)


def test_a_hangup_reaches_every_worker_and_streams_keep_their_version(root: Path) -> None:
    with serving(root, reload_s=0, workers=2) as client:
        first = fingerprint(client)
        with grpc.insecure_channel(client.grpc_address) as channel:
            stub = clip_pb2_grpc.ClipServiceStub(channel)
            go_on = threading.Event()

            def messages() -> Iterator[clip_pb2.EmbedStreamRequest]:
                for _ in range(2):
                    entry = clip_pb2.StreamItem(id="x", item=item(0))
                    yield clip_pb2.EmbedStreamRequest(items=[entry])
                    go_on.wait(2 * SWITCH_S)

            answers = stub.EmbedStream(messages())
            before = next(answers)
            publish(root, 2)
            os.kill(client.process, signal.SIGHUP)
            wait_until(lambda: fingerprints(client) == {OTHER}, "the new version in both processes")
            go_on.set()
            after = next(answers)
            assert (before.fingerprint, after.fingerprint) == (first, first)
            assert before.results[0].embedding.vector == after.results[0].embedding.vector
        metrics = client.get("/metrics").text
        assert re.search(rf'openclip_model_info{{fingerprint="{OTHER}".*}} 1\.0', metrics)
        assert alive(client.process)


def test_a_worker_that_starts_serves_only_what_gives_right_golden_vectors(root: Path) -> None:
    log = root.parent / "log"
    with serving(root, Outside(log=log), reload_s=0.1, workers=2) as client:
        first = fingerprint(client)
        publish(root, 2, golden=False)
        wait_until(lambda: log.read_text().count("is refused") == 2)
        killed, other = children(client.process)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: "not serving yet: " in log.read_text())
        for _ in range(3):  # the new worker takes no connection
            assert fingerprints(client) == {first}
        versions.main(["demo", "--repository", str(root), "--use", "1"])
        os.kill(other, signal.SIGSTOP)  # so that it is the new one that answers
        try:
            with httpx.Client(base_url=client.base_url, timeout=60) as fresh:
                assert fingerprint(fresh) == first
                assert fresh.post("/v1/embeddings", json={"input": TEXTS[0]}).is_success
        finally:
            os.kill(other, signal.SIGCONT)


@pytest.mark.parametrize("early", [False, True])
def test_a_worker_that_waits_to_be_ready_is_stopped_at_once(root: Path, early: bool) -> None:
    log = root.parent / "log"

    def waits(process: int) -> bool:
        if early:
            return catches(process, signal.SIGTERM)
        return "not serving yet: " in log.read_text()

    with serving(root, Outside(log=log), reload_s=0, workers=2, drain_s=30) as client:
        publish(root, 2, golden=False)
        before = children(client.process)
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: {*children(client.process)} - {*before})
        [process] = {*children(client.process)} - {*before}
        wait_until(lambda: waits(process))
    # That the gateway ended, and with 0, was seen by `run_gateway`.
    assert "cut short" not in log.read_text()
    assert "Traceback" not in log.read_text()


def fingerprints(client: GatewayClient) -> set[str]:
    """The fingerprints that twelve new connections get, spread over several processes."""
    found = set()
    for _ in range(12):
        with httpx.Client(base_url=client.base_url, timeout=60, verify=PLAIN) as fresh:
            found.add(fingerprint(fresh))
    return found


def test_a_stop_under_load_answers_what_was_begun(
    triton: TritonServer, capfd: pytest.CaptureFixture[str]
) -> None:
    answers: list[object] = []
    body = {"input": [f"{word} {number}" for word in "abcd" for number in range(64)]}

    connected = threading.Barrier(12)

    def rest(base_url: httpx.URL) -> None:
        with httpx.Client(base_url=base_url, timeout=60) as client:
            client.get("/livez")
            connected.wait(60)
            answers.append(client.post("/v1/embeddings", json=body).status_code)

    def rpc(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = clip_pb2_grpc.ClipServiceStub(channel)
            items = [clip_pb2.Item(text=text) for text in body["input"]]
            grpc.channel_ready_future(channel).result(60)
            connected.wait(60)
            answer = stub.Embed(clip_pb2.EmbedRequest(input=items), timeout=60)
            answers.append(len(answer.results))

    # All of them are large and come from one address; half of the room, which that may hold here,
    # is for large requests.
    with run_gateway(
        triton_address=triton.addresses.grpc,
        text_cache_bytes=0,
        max_inflight_items=2 * 12 * len(body["input"]),
        max_wait_s=300,
        client_share=1,
    ) as client:
        threads = [threading.Thread(target=rest, args=[client.base_url]) for _ in range(6)]
        threads += [threading.Thread(target=rpc, args=[client.grpc_address]) for _ in range(6)]
        process = client.process
        for thread in threads:
            thread.start()
        wait_until(lambda: inflight(client) + inflight(client, "grpc") >= 12 or answers)
        os.kill(process, signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        wait_until(lambda: not alive(process), "the end")
        with pytest.raises(httpx.TransportError):
            client.get("/livez")
    assert sorted(map(str, answers)) == ["200"] * 6 + ["256"] * 6
    assert "Traceback" not in capfd.readouterr().err


def test_a_hang_up_does_not_end_what_drains(triton: TritonServer) -> None:
    with run_gateway(triton_address=triton.addresses.grpc) as client:
        go_on = threading.Event()

        def nothing_yet() -> Iterator[clip_pb2.EmbedStreamRequest]:
            go_on.wait(SWITCH_S)
            yield clip_pb2.EmbedStreamRequest()

        with grpc.insecure_channel(client.grpc_address) as channel:
            stream = clip_pb2_grpc.ClipServiceStub(channel).EmbedStream(nothing_yet())
            wait_until(lambda: inflight(client, "grpc"))
            os.kill(client.process, signal.SIGTERM)
            deadline = time.monotonic() + SWITCH_S
            while alive(client.process):  # at every moment until its end, which is with 0
                assert time.monotonic() < deadline, "it does not end"
                os.kill(client.process, signal.SIGHUP)
                time.sleep(0.001)
            go_on.set()
            with pytest.raises(grpc.RpcError):
                list(stream)


def test_what_outlives_the_time_to_drain_is_sent_elsewhere(
    triton: TritonServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    address = triton.addresses.grpc
    with (
        run_gateway(Outside(log=log), triton_address=address, drain_s=1) as client,
        unfinished_request(client) as connection,
    ):
        os.kill(client.process, signal.SIGTERM)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in answer
    assert b"shutting down; send the request elsewhere" in answer
    assert " 503 " in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("10.0.0.7", 404)]
)
async def test_only_this_machine_may_ask_for_a_reload(address: str, status: int) -> None:
    settings = Settings(model_repository=REPOSITORY, grpc_port=0, reload_s=0)
    app = create_app(settings, load(settings), lambda *_: FakeInferClient(unit))
    transport = httpx.ASGITransport(app, client=(address, 1234))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as api,
    ):
        assert (await api.post("/v1/admin/reload")).status_code == status


def test_versions_on_the_command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        code = versions.main(["demo", "--repository", str(root), *arguments])
        out, err = capsys.readouterr()
        return code, out + err

    def served() -> dict[str, str]:
        return dict(re.findall(r"version (\d+) (\w+)", run()[1]))

    publish(root, 5)
    assert served() == {"1": "kept", "5": "served"}
    assert run("--use", "1")[0] == 0
    assert served() == {"1": "served", "5": "kept"}
    assert repository.next_version(root, "demo", 64, 64) == 6
    for wrong, says in (("--drop=1", "is served"), ("--use=7", "no version 7 is kept; there is 5")):
        code, said = run(wrong)
        assert code == 1
        assert says in said
    with pytest.raises(RepositoryError, match="there is a version 5 already"):
        repository.next_version(root, "demo", 64, 64, 5)
    assert (root / "demo.image" / "5").is_dir()
    assert run("--drop", "5")[0] == 0
    assert served() == {"1": "served"}
    assert not (root / "demo.image" / "5").exists()
    assert (root / "demo.image" / "1" / "model.onnx").is_file()
    publish(root, 6, keep=False)
    assert served() == {"6": "served"}
    assert not (root / "demo.image" / "1").exists()
    publish(root, 7)
    repository.remove(root, "demo")
    assert not list(root.glob("demo*"))
