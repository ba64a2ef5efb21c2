"""Images by URL: what leads nowhere it should not, and what can be had."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import GatewayError, ImageError, MalformedRequest, TooLarge
from gateway.images.addresses import allowed
from gateway.images.fetch import Fetcher, FetchRules, Resolve, look_up
from gateway.images.slots import Slots
from gateway.models.values import Deadline
from tests.gateway.certificates import Authority
from tests.gateway.refused_urls import NAMES, REFUSED
from tests.gateway.webserver import PUBLIC, PUBLIC_V6, Answer, Names, Net, moved, response, serving

PICTURE = b"a picture's bytes"


TRUST = ssl.create_default_context()  # made once: it takes long


def fetcher_of(
    rules: FetchRules, resolve: Resolve, net: Net, trust: ssl.SSLContext = TRUST
) -> Fetcher:
    return Fetcher(rules, resolve, net, trust)


async def fetch(fetcher: Fetcher, url: str, request: int = 0, within: float = 60) -> bytes:
    async with fetcher.fetched(url, ("client", request), Deadline.after(within)) as data:
        return data


async def fetched(
    answers: dict[str, Answer], url: str = "http://picture.test/a.png", **rules: Any
) -> bytes:
    """What a URL leads to on a net where `picture.test` and `other.test` are this server."""
    names = Names(
        {"picture.test": [[PUBLIC]], "other.test": [[PUBLIC]], "inside.test": [["10.0.0.1"]]}
    )
    async with serving(answers) as web:
        net = Net(web.port)
        try:
            return await fetch(fetcher_of(FetchRules(**rules), names, net), url)
        finally:
            assert {address for address, _ in net.dialled} <= {PUBLIC}


async def refusal(answers: dict[str, Answer], *url: str, **rules: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await fetched(answers, *url, **rules)
    return caught.value


def test_the_table_is_long() -> None:
    assert len(set(REFUSED)) == len(REFUSED) >= 60


@pytest.mark.parametrize("url", REFUSED, ids=range(len(REFUSED)))
async def test_a_refused_url_leads_nowhere(url: str) -> None:
    names = Names({"example.com": [[PUBLIC]], "book.test": [[PUBLIC]]} | NAMES)
    net = Net(0)
    with pytest.raises(MalformedRequest) as caught:
        await fetch(fetcher_of(FetchRules(), names, net), url)
    assert caught.value.code == "url_not_allowed"
    assert not net.dialled


@pytest.mark.parametrize(
    "url", [url for url in REFUSED if "169.254" in url or "fe80" in url or "metadata" in url]
)
async def test_link_local_and_metadata_stay_refused_where_private_addresses_are_not(
    url: str,
) -> None:
    net = Net(0)
    with pytest.raises(MalformedRequest):
        await fetch(fetcher_of(FetchRules(private=True), Names(NAMES), net), url)
    assert not net.dialled


async def test_an_allowed_url_is_fetched() -> None:
    names = Names({"picture.test": [[PUBLIC]]})
    async with serving({"/a%20b.png?x=1&y=%2F": response(PICTURE)}) as web:
        net = Net(web.port)
        fetcher = fetcher_of(FetchRules(), names, net)
        assert await fetch(fetcher, "HTTP://Picture.TEST./a%20b.png?x=1&y=%2F#part") == PICTURE
    assert net.dialled == [(PUBLIC, 80)]
    [asked] = web.requests
    assert asked["host"] == "picture.test"
    assert not {"cookie", "authorization", "referer"} & set(asked)


@pytest.mark.parametrize("url", [f"http://{PUBLIC}/a.png", f"http://[{PUBLIC_V6}]/a.png"])
async def test_an_allowed_address_is_fetched_and_never_looked_up(url: str) -> None:
    names = Names({})
    async with serving({"/a.png": response(PICTURE)}) as web:
        assert await fetch(fetcher_of(FetchRules(), names, Net(web.port)), url) == PICTURE
    assert names.asked == []


@pytest.mark.parametrize(
    ("address", "by_default", "where_private"),
    [
        (PUBLIC, True, True),
        (PUBLIC_V6, True, True),
        (f"::ffff:{PUBLIC}", True, True),  # IPv6 that stands for IPv4 is as good as that one
        (f"64:ff9b::{PUBLIC}", True, True),
        ("10.0.0.1", False, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("fd12::1", False, True),
        ("::ffff:10.0.0.1", False, True),
        ("64:ff9b::10.0.0.1", False, True),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::169.254.169.254", False, False),
        ("100.100.100.200", False, False),
        ("fd00:ec2::254", False, False),
        ("fe80::1", False, False),
        ("224.0.0.1", False, False),
        ("0.0.0.0", False, False),  # noqa: S104 - not listened on
        ("::", False, False),
    ],
)
def test_which_addresses_may_be_connected_to(
    address: str, by_default: bool, where_private: bool
) -> None:
    found = ip_address(address)
    assert allowed(found, private=False) == by_default
    assert allowed(found, private=True) == where_private


async def test_rebinding_the_name_changes_nothing() -> None:
    """The name is looked up once, so there is no second answer to lead elsewhere."""
    names = Names({"picture.test": [[PUBLIC], ["127.0.0.1"]]})
    async with serving({"/a.png": response(PICTURE)}) as web:
        net = Net(web.port)
        assert await fetch(fetcher_of(FetchRules(), names, net), "http://picture.test/a.png")
        assert names.asked == ["picture.test"]
        assert net.dialled == [(PUBLIC, 80)]
        with pytest.raises(MalformedRequest):
            await fetch(fetcher_of(FetchRules(), names, net), "http://picture.test/a.png")
    assert net.dialled == [(PUBLIC, 80)]


async def test_a_name_is_checked_again_on_each_redirect() -> None:
    names = Names({"picture.test": [[PUBLIC], ["127.0.0.1"]]})
    async with serving({"/a.png": moved("http://picture.test/b.png")}) as web:
        net = Net(web.port)
        with pytest.raises(MalformedRequest):
            await fetch(fetcher_of(FetchRules(), names, net), "http://picture.test/a.png")
    assert net.dialled == [(PUBLIC, 80)]


async def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    names = Names({"picture.test": [["93.184.215.15", PUBLIC]]})
    async with serving({"/a.png": response(PICTURE)}) as web:
        net = Net(web.port)
        assert await fetch(fetcher_of(FetchRules(), names, net), "http://picture.test/a.png")
    assert net.dialled == [("93.184.215.15", 80), (PUBLIC, 80)]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 T", "308 P"])
@pytest.mark.parametrize(
    "location", ["/b.png", "b.png", "http://other.test/b.png", "//other.test/b.png"]
)
async def test_redirects_are_followed(status: str, location: str) -> None:
    answers: dict[str, Answer] = {
        "/a.png": moved(location, status), "/b.png": response(PICTURE)
    }  # fmt: skip
    assert await fetched(answers) == PICTURE


REDIRECTS = [
    "http://127.0.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "//[::1]/",
    "//169.254.169.254/",
    "http://2130706433/",
    "http://[::ffff:127.0.0.1]/",
    "http://inside.test/",
    "http://unknown.test/",
    "http://user:password@other.test/",
    "http://other.test:6379/",
    "http://picture.test:22/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_INFO",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "http://[::1",
    "http://127\u00b70.0.1/",
    "\\\\127.0.0.1\\",
]


@pytest.mark.parametrize("location", REDIRECTS, ids=range(len(REDIRECTS)))
async def test_a_redirect_is_checked_as_the_url_itself(location: str) -> None:
    error = await refusal({"/a.png": moved(location)})
    assert (type(error), error.code) == (MalformedRequest, "url_not_allowed")


async def test_redirects_are_limited() -> None:
    answers: dict[str, Answer] = {f"/{i}": moved(f"/{i + 1}") for i in range(4)}
    answers["/4"] = response(PICTURE)
    assert await fetched(answers, "http://picture.test/1") == PICTURE
    error = await refusal(answers, "http://picture.test/0")
    assert error.code == "url_failed"
    assert "3 redirects" in error.message
    assert (await refusal({"/a.png": moved("/a.png")})).code == "url_failed"


async def test_an_interim_answer_may_come_first() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\n"
    assert await fetched({"/a.png": hints + response(PICTURE)}) == PICTURE


async def test_only_listed_hosts_are_fetched_from() -> None:
    answers: dict[str, Answer] = {
        "/a.png": response(PICTURE), "/away": moved("http://other.test/a.png")
    }  # fmt: skip
    for hosts in [("picture.test",), ("*.test",), ("PICTURE.test",)]:
        assert await fetched(answers, hosts=hosts) == PICTURE
    for hosts in [("other.test",), ("*.picture.test",), ("test",), ("*.example.org",)]:
        error = await refusal(answers, hosts=hosts)
        assert error.code == "url_not_allowed"
        assert "GATEWAY_FETCH_HOSTS" in error.message
    error = await refusal(answers, "http://picture.test/away", hosts=("picture.test",))
    assert "'other.test' is not listed" in error.message


async def test_ports_can_be_set() -> None:
    answers: dict[str, Answer] = {"/a.png": response(PICTURE)}
    url = "http://picture.test:8080/a.png"
    assert "GATEWAY_FETCH_PORTS" in (await refusal(answers, url)).message
    assert await fetched(answers, url, ports=frozenset({8080})) == PICTURE


async def test_no_more_bytes_are_read_than_an_image_may_have() -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(1_000))
            await writer.drain()
            sent += 1_000

    answers: dict[str, Answer] = {
        "/a.png": response(bytes(1_001)),
        "/b.png": response(length=10**30),
        "/c.png": endless,
        "/d.png": response(bytes(1_000)),
    }
    for path in ("a.png", "c.png"):
        error = await refusal(answers, f"http://picture.test/{path}", max_bytes=1_000)
        assert isinstance(error, TooLarge)
        assert "GATEWAY_MAX_IMAGE_BYTES" in error.message
    assert sent < 20 * 2**20  # what the buffers of both sides hold
    assert (await refusal(answers, "http://picture.test/b.png")).code == "url_failed"
    assert len(await fetched(answers, "http://picture.test/d.png", max_bytes=1_000)) == 1_000


async def test_what_takes_too_long_is_given_up() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def dripping(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    answers: dict[str, Answer] = {"/a.png": silent, "/b.png": dripping}
    async with asyncio.timeout(10):
        for path in answers:
            error = await refusal(answers, f"http://picture.test{path}", timeout_s=0.3)
            assert error.code == "url_failed"
            assert "GATEWAY_FETCH_TIMEOUT_S" in error.message


async def test_a_name_server_that_hangs_is_given_up() -> None:
    async def hanging(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    fetcher = fetcher_of(FetchRules(timeout_s=0.2), hanging, Net(0))
    with pytest.raises(ImageError, match=r"0\.2 seconds"):
        async with asyncio.timeout(10):
            await fetch(fetcher, "http://picture.test/a.png")


@asynccontextmanager
async def slow(concurrency: int) -> AsyncIterator[tuple[Fetcher, list[int]]]:
    """A fetcher from a host that takes its time; and how many it was asked for at a time."""
    under_way = 0
    seen: list[int] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal under_way
        under_way += 1
        seen.append(under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        writer.write(response(PICTURE))
        await writer.drain()

    async with serving({"/a.png": answer}) as web:
        rules, names = FetchRules(concurrency=concurrency), Names({"picture.test": [[PUBLIC]]})
        yield fetcher_of(rules, names, Net(web.port)), seen


@pytest.mark.parametrize(("concurrency", "requests", "most"), [(3, 12, 3), (8, 1, 4), (1, 3, 1)])
async def test_only_so_many_are_fetched_at_a_time(
    concurrency: int, requests: int, most: int
) -> None:
    """One request holds half of the slots, and several all of them."""
    async with slow(concurrency) as (fetcher, seen):
        found = await asyncio.gather(
            *(
                fetch(fetcher, "http://picture.test/a.png", number % requests)
                for number in range(12)
            )
        )
    assert found == [PICTURE] * 12
    assert max(seen) == most


async def test_a_free_slot_goes_to_the_client_that_holds_the_fewest() -> None:
    slots = Slots(2)
    for request in range(2):
        await slots.take(("many", request), 60)
    owners = [("many", 2), ("many", 3), ("one", 4)]
    turns = [asyncio.create_task(slots.take(owner, 60)) for owner in owners]
    await asyncio.sleep(0)
    slots.give_back(("many", 0))
    await asyncio.wait(turns, return_when=asyncio.FIRST_COMPLETED)
    assert [turn.done() for turn in turns] == [False, False, True]
    slots.give_back(("many", 1))
    slots.give_back(("one", 4))
    await asyncio.gather(*turns)


async def test_what_has_no_turn_in_time_fails_alone() -> None:
    async with slow(concurrency=1) as (fetcher, seen):
        url = "http://picture.test/a.png"
        first, *others = await asyncio.gather(
            fetch(fetcher, url),
            *(fetch(fetcher, url, within=0.01) for _ in range(3)),
            return_exceptions=True,
        )
        assert first == PICTURE
        for error in others:
            assert isinstance(error, ImageError)
            assert (error.code, "time for fetching" in error.message) == ("url_failed", True)
        assert await fetch(fetcher, url) == PICTURE, "a slot was lost"
    assert len(seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nxxxxx",
        b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5_000 + b"\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ncut short",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"1\r\nx\r\n" * 9_000
        + b"0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\nx",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000 + response(PICTURE),
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        response(PICTURE, "404 Not Found"),
        response(PICTURE, "401 Unauthorized"),
        response(PICTURE, "500 Oops"),
        response(status="302 Found"),
        response(PICTURE, content_encoding="gzip"),
        response(PICTURE, content_encoding="br"),
        moved("\u00e9" * 3),
    ],
    ids=range(20),
)
async def test_what_a_host_gets_wrong_is_the_clients_error(answer: bytes) -> None:
    assert (await refusal({"/a.png": answer})).code == "url_failed"


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://10.9.8.7:3128")
    assert await fetched({"/a.png": response(PICTURE)}) == PICTURE


async def test_tls_names_and_checks_the_host_and_not_the_address(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("picture.test")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    named: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: named.append(name)
    names = Names({"picture.test": [[PUBLIC]], "other.test": [[PUBLIC]]})
    trust = ssl.create_default_context(cafile=authority.certificate)
    async with serving({"/a.png": response(PICTURE)}, tls) as web:
        net = Net(web.port)
        fetcher = fetcher_of(FetchRules(), names, net, trust)
        assert await fetch(fetcher, "https://picture.test/a.png") == PICTURE
        assert net.dialled == [(PUBLIC, 443)]
        assert named == ["picture.test"]
        with pytest.raises(ImageError, match="cannot be reached"):
            await fetch(fetcher, "https://other.test/a.png")
        with pytest.raises(ImageError, match="cannot be reached"):
            await fetch(fetcher_of(FetchRules(), names, net), "https://picture.test/a.png")


async def test_names_are_looked_up_by_the_system() -> None:
    found = set(await look_up("localhost", 80))
    assert found
    assert found <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r"[Nn]ame"):
        await look_up("no-such-name.invalid", 80)
