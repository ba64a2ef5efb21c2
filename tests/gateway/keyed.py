"""A file of API keys, and calls with them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import grpc
import httpx

from openclip_api.v1 import clip_pb2, clip_pb2_grpc


class Keys:
    """A file whose keys can be changed while a gateway reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, dict[str, Any]] = {}

    def secret(self, name: str) -> str:
        return f"oct_secret-of-{name}-5A3C9F"

    def add(self, name: str, **quota: int) -> str:
        digest = hashlib.sha256(self.secret(name).encode()).hexdigest()
        self._entries[name] = {"name": name, "sha256": digest} | quota
        self._write()
        return self.secret(name)

    def revoke(self, name: str) -> None:
        del self._entries[name]
        self._write()

    def _write(self) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"keys": list(self._entries.values())}))
        fresh.replace(self.path)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def embed(api: httpx.Client, secret: str | None, items: int = 1, **headers: str) -> httpx.Response:
    given = headers if secret is None else bearer(secret) | headers
    body = {"model": "demo", "input": [f"a red circle {i}" for i in range(items)]}
    return api.post("/v1/embeddings", json=body, headers=given)


def call(
    channel: grpc.Channel, secret: str | None, items: int = 1, timeout: float = 30
) -> clip_pb2.EmbedResponse:
    request = clip_pb2.EmbedRequest(
        input=[clip_pb2.Item(text=f"a red circle {i}") for i in range(items)]
    )
    answer: clip_pb2.EmbedResponse = clip_pb2_grpc.ClipServiceStub(channel).Embed(
        request, metadata=metadata(secret), timeout=timeout
    )
    return answer


def metadata(secret: str | None) -> tuple[tuple[str, str], ...]:
    return () if secret is None else tuple(bearer(secret).items())


def trailing(error: grpc.RpcError) -> dict[str, str]:
    return {key: str(value) for key, value in error.trailing_metadata()}
