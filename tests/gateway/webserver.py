"""A web server in this process, and a net on which every name and address is made up."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpcore2

PUBLIC = "93.184.215.14"
PUBLIC_V6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def response(
    body: bytes = b"", status: str = "200 OK", length: int | None = None, **headers: str
) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def moved(location: str, status: str = "302 Found") -> bytes:
    return response(status=status, location=location)


class Net(httpcore2.AsyncNetworkBackend):
    """Leads the addresses that are known to a server here; notes every one that is dialled."""

    def __init__(self, port: int, reachable: Sequence[str] = (PUBLIC, PUBLIC_V6)) -> None:
        self._port = port
        self._reachable = reachable
        self._real = httpcore2.AnyIOBackend()
        self.dialled: list[tuple[str, int]] = []

    async def connect_tcp(
        self, host: str, port: int, *args: Any, **options: Any
    ) -> httpcore2.AsyncNetworkStream:
        self.dialled.append((host, port))
        if host not in self._reachable:
            raise httpcore2.ConnectError(f"{host} is not here")
        return await self._real.connect_tcp("127.0.0.1", self._port)


class Names:
    """What names stand for: the next answer of each, the last of them for ever."""

    def __init__(self, answers: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._answers = {name: list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self._answers.get(host)
        if not answers:
            raise OSError(f"no address for {host}")
        return answers.pop(0) if len(answers) > 1 else answers[0]


class Web:
    """Answers by path; notes what was asked."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self._answers = answers
        self.requests: list[dict[str, str]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split(" ")[1]
            fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            self.requests.append({"path": path} | fields)
            answer = self._answers.get(path, response(status="404 Not Found"))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # whoever asked has left
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    answers: dict[str, Answer], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Web]:
    """A server of these answers on a free port."""
    web = Web(answers)
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
