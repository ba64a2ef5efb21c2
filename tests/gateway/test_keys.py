"""The file of keys, and how a key is looked up in it."""

import asyncio
import contextlib
import hashlib
import hmac
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import gateway.access.keys
from gateway.access.access import Access
from gateway.access.keys import Key, Keyring, KeysError, read_keys
from gateway.access.quotas import Quotas
from gateway.admission.permits import Admission, Room
from gateway.errors import Overloaded, QuotaExceeded, Unauthenticated
from gateway.inference.client import FakeInferClient
from gateway.models.values import Cost, Deadline
from gateway.pipeline.requests import Plan
from gateway.rpc.calls import Work
from gateway.telemetry.record import Record
from openclip_api.v1 import clip_pb2
from tests.conftest import ROOT, free_ports
from tests.gateway.fakes import unit
from tests.gateway.keyed import Keys, metadata
from tests.gateway.rpcserver import served, text
from tests.gateway.waiting import until


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.yaml")


@asynccontextmanager
async def following(keyring: Keyring) -> AsyncIterator[None]:
    task = asyncio.create_task(keyring.follow())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def unknown(keyring: Keyring, secret: str) -> bool:
    try:
        keyring.find(secret)
    except Unauthenticated:
        return True
    return False


def test_a_key_is_found_by_its_digest(keys: Keys) -> None:
    secret = keys.add("alice", items_per_minute=5, concurrency=2)
    keys.add("bob")
    found = Keyring(keys.path).find(secret)
    assert (found.name, found.items_per_minute, found.concurrency) == ("alice", 5, 2)
    assert secret not in keys.path.read_text()


@pytest.mark.parametrize("change", [lambda k: k[:-1], lambda k: k + "x", str.upper, lambda k: ""])
def test_nothing_like_a_key_is_found(keys: Keys, change: Any) -> None:
    secret = keys.add("alice")
    with pytest.raises(Unauthenticated) as caught:
        Keyring(keys.path).find(change(secret))
    assert secret not in caught.value.message


def test_a_digest_is_no_key(keys: Keys) -> None:
    secret = keys.add("alice")
    with pytest.raises(Unauthenticated):
        Keyring(keys.path).find(hashlib.sha256(secret.encode()).hexdigest())


def test_every_digest_is_compared_in_full_and_in_constant_time(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared does not depend on what is presented, nor on where it stands."""
    secrets = [keys.add(name) for name in ("alice", "bob", "carol")]
    keyring = Keyring(keys.path)
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(gateway.access.keys, "compare_digest", compare)
    for presented in (*secrets, secrets[0][:-1], "", "nobody's"):
        compared.clear()
        with contextlib.suppress(Unauthenticated):
            keyring.find(presented)
        wanted = hashlib.sha256(presented.encode()).hexdigest()
        known = [hashlib.sha256(secret.encode()).hexdigest() for secret in secrets]
        assert compared == [(each, wanted) for each in known]


WRONG = {
    "nothing": "",
    "a list": "[]",
    "other fields": "keys: []\nmore: 1",
    "not YAML": "keys: [\nsecret-thing: {",
    "a date that is none": "keys: 2026-99-99",
    "deep": "[" * 5_000,
    "keys are no list": "keys: {a: 1}",
    "an entry is no object": "keys: [secret-thing]",
    "an unknown field": "keys: [{name: a, sha256: DIGEST, secret: secret-thing}]",
    "no name": "keys: [{sha256: DIGEST}]",
    "a long name": f"keys: [{{name: {'a' * 65}, sha256: DIGEST}}]",
    "a name with spaces": "keys: [{name: a b, sha256: DIGEST}]",
    "no digest": "keys: [{name: a}]",
    "a key in place of its digest": "keys: [{name: a, sha256: secret-thing}]",
    "a digest in capitals": "keys: [{name: a, sha256: CAPITALS}]",
    "no items": "keys: [{name: a, sha256: DIGEST, items_per_minute: 0}]",
    "half a request": "keys: [{name: a, sha256: DIGEST, concurrency: 0.5}]",
    "a name twice": "keys: [{name: a, sha256: DIGEST}, {name: a, sha256: OTHER}]",
    "a digest twice": "keys: [{name: a, sha256: DIGEST}, {name: b, sha256: DIGEST}]",
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_told_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.yaml"
    digest, other = (hashlib.sha256(word).hexdigest() for word in (b"a", b"b"))
    content = content.replace("DIGEST", digest).replace("OTHER", other)
    path.write_text(content.replace("CAPITALS", digest.upper()))
    with pytest.raises(KeysError) as caught:
        read_keys(path)
    assert str(path) in str(caught.value)
    assert "secret-thing" not in str(caught.value)
    assert digest not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="No such file"):
        read_keys(tmp_path / "none.yaml")


def test_an_empty_list_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("keys: []")
    assert read_keys(path) == ()


async def test_the_file_is_read_again_when_it_changes(keys: Keys) -> None:
    alice = keys.add("alice")
    keyring = Keyring(keys.path)
    held = keyring.find(alice)
    async with following(keyring):
        bob = keys.add("bob", concurrency=1)
        keys.revoke("alice")
        await until(lambda: unknown(keyring, alice))
        assert keyring.find(bob).concurrency == 1
        with pytest.raises(Unauthenticated):
            keyring.again(held)


@pytest.mark.parametrize("broken", ["keys: [", None], ids=["not YAML", "gone"])
async def test_a_broken_file_leaves_the_keys_as_they_are(
    keys: Keys, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = keys.add("alice"), keys.add("bob")
    keyring = Keyring(keys.path)
    async with following(keyring):
        if broken is None:
            keys.path.unlink()
        else:
            keys.path.write_text(broken)
        await until(lambda: "the previous keys stay valid" in caplog.text)
        assert keyring.find(alice).name == "alice"
        keys.revoke("alice")  # and once it is whole again, it counts
        await until(lambda: unknown(keyring, alice))
        assert keyring.find(bob).name == "bob"


def key(name: str = "a", **limits: int) -> Key:
    return Key(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), **limits)


def refused_for(quotas: Quotas, limited: Key, items: int) -> float | None:
    """Seconds for which the key is refused this number of items."""
    with pytest.raises(QuotaExceeded) as caught:
        quotas.spend(limited, items)
    return caught.value.retry_after_s


def test_items_come_back_steadily() -> None:
    now = 1_000.0
    quotas = Quotas(clock=lambda: now)
    a = key(items_per_minute=60)
    quotas.spend(a, 60)
    assert refused_for(quotas, a, 10) == pytest.approx(10)
    quotas.spend(key("b", items_per_minute=60), 60)  # another key has its own
    now += 9.5
    assert refused_for(quotas, a, 10) == pytest.approx(0.5)
    now += 0.5
    quotas.spend(a, 10)
    now += 3_600
    quotas.spend(a, 60)  # an hour's rest gives a minute's items, and no more
    with pytest.raises(QuotaExceeded):
        quotas.spend(a, 1)


def test_a_request_for_more_than_a_minutes_items_is_let_in_and_paid_for() -> None:
    now = 0.0
    quotas = Quotas(clock=lambda: now)
    a = key(items_per_minute=60)
    quotas.spend(a, 180)
    assert refused_for(quotas, a, 1) == pytest.approx(121)


def test_processes_share_a_quota() -> None:
    quotas = Quotas(share=4, clock=lambda: 0.0)
    a = key(items_per_minute=10, concurrency=5)
    quotas.spend(a, 3)
    with pytest.raises(QuotaExceeded, match="10 items per minute"):
        quotas.spend(a, 1)
    with (
        quotas.running(a),
        quotas.running(a),
        pytest.raises(QuotaExceeded, match="5 requests"),
        quotas.running(a),
    ):
        pass
    with quotas.running(a), quotas.running(a):
        pass


async def test_a_changed_quota_and_a_revoked_key_reach_what_runs(keys: Keys) -> None:
    secret = keys.add("alice", items_per_minute=10)
    keyring = Keyring(keys.path)
    record = Record()
    with Access(keyring, Quotas()).entered([f"Bearer {secret}"], record) as account:
        account.spend(10)
        assert (record.key, record.spent) == ("alice", 10)
        async with following(keyring):
            keys.add("alice", items_per_minute=1_000)
            await until(lambda: keyring.find(secret).items_per_minute == 1_000)
            account.spend(10)
            keys.revoke("alice")
            await until(lambda: unknown(keyring, secret))
            with pytest.raises(Unauthenticated):
                account.spend(1)


async def test_room_is_taken_before_the_quota(keys: Keys) -> None:
    async def answer(deadline: Deadline) -> bool:
        return True

    secret = keys.add("alice", items_per_minute=100)
    permits, record = Admission(Room(requests=9, items=10, bytes=100)), Record()
    with (
        Access(Keyring(keys.path), Quotas()).entered([f"Bearer {secret}"], record) as account,
        permits.permit(0) as first,
        permits.permit(0) as second,
    ):
        one, other = (Work(Deadline.after(9), record, each, account) for each in (first, second))
        assert await one.run(Plan(Cost(5, 1, bytes=60), answer))
        for too_much in (Cost(6), Cost(1, 1, bytes=60)):
            with pytest.raises(Overloaded):
                await other.run(Plan(too_much, answer))
        assert record.spent == 5
        assert await other.run(Plan(Cost(5), answer))
        assert record.spent == 10


async def test_a_message_is_not_read_without_a_key(keys: Keys) -> None:
    """One that is larger than gRPC takes is answered by what it lacks first."""
    secret = keys.add("alice")
    access = Access(Keyring(keys.path), Quotas())
    async with served(FakeInferClient(unit), access=access) as service:
        asked = clip_pb2.EmbedRequest(input=[text("a" * 8 * 2**20)])
        stream = clip_pb2.EmbedStreamRequest(items=[clip_pb2.StreamItem(item=asked.input[0])])
        for key, status in ((None, "UNAUTHENTICATED"), (secret, "RESOURCE_EXHAUSTED")):
            for call in (
                service.stub.Embed(asked, metadata=metadata(key)),
                service.stub.EmbedStream(iter([stream]), metadata=metadata(key)).read(),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code().name == status


def ran(module: str, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """A program of the gateway with these settings and no others, and how it ended."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GATEWAY_")}
    environment |= {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
def test_the_command_makes_a_key_and_its_entry(tmp_path: Path) -> None:
    shown = [ran("gateway.access.keys", "new", "mobile-app").stdout for _ in range(2)]
    secrets = [re.findall(r"oct_[\w-]{40,}", each) for each in shown]
    assert secrets[0] != secrets[1]
    path = tmp_path / "keys.yaml"
    path.write_text("keys:\n" + shown[0].partition("`keys:`:\n")[2])
    [secret] = secrets[0]
    assert Keyring(path).find(secret).name == "mobile-app"
    assert ran("gateway.access.keys", "new", "not a name").returncode == 2


@pytest.mark.slow
def test_a_gateway_does_not_start_without_its_keys(tmp_path: Path) -> None:
    ports = dict(zip(("http_port", "grpc_port"), free_ports(2), strict=True))
    started = ran("gateway", **ports, api_keys_file=tmp_path / "none.yaml")
    assert started.returncode == 1
    assert "none.yaml: cannot be read: No such file" in started.stderr
