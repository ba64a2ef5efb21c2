"""Model control: the versions of encoders that a Triton loads and unloads."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2, service_pb2

from gateway.errors import Unavailable
from gateway.inference.secret import METADATA, Secret, SecretError
from gateway.inference.server import PROBE_TIMEOUT_S, Server, detect_closing
from gateway.models.files import read_file

CONFIG = "config.pbtxt"
INDEX_S = 10.0  # for Triton to list what is loaded
POLL_S = 0.2
REASON = 300  # characters of Triton's message in ours
SETTLE_S = 2.0  # for a version to become ready after Triton reported the model as loaded
CHANGE_S = 300.0  # for Triton to unload, or to load what another gateway had unloaded
READY, LOADING, UNLOADING = "READY", "LOADING", "UNLOADING"  # states in Triton's index
UNLOADED = "unloaded"  # its reason for a version that was unloaded on request

Versions = Mapping[int, str]  # of an encoder, with the state of each
Idle = Mapping[tuple[str, int], tuple[int, int]]  # see `Server.idle`

logger = logging.getLogger(__name__)


class ModelControl:
    """Has Tritons load and unload versions of encoders.

    Each request names all versions to load, in place of the `version_policy` of `config.pbtxt`.
    The rest of that file goes along as it is: Triton loads every version anew where it differs
    from what it has.
    """

    def __init__(self, repository: Path, secret: Secret) -> None:
        self._repository = repository
        self._secret = secret

    async def load(self, server: Server, model: str, version: int, within: float) -> None:
        """Load a version beside those that are loaded; return when the server serves it.

        Triton keeps what is loaded and unchanged. In the mode `poll` it refuses, and finds the
        version by itself: call again later.

        Raises:
            Unavailable: The server does not serve the version; the message says why.
        """
        try:
            states = (await self._index(server, f"{model}: "))[model]
            loaded = {each for each, state in states.items() if state in (READY, LOADING)}
            await self._load(server, model, {version} | loaded, within)
        except Unavailable:
            if not await server.ready(model, version, SETTLE_S):
                raise
            return
        for _ in range(round(SETTLE_S / POLL_S)):
            if await server.ready(model, version, SETTLE_S):
                return
            await asyncio.sleep(POLL_S)
        raise Unavailable(f"{model}: Triton at {server.address} has no version {version}")

    async def release(
        self, server: Server, served: Mapping[str, int], gone: Collection[str], looks: float
    ) -> list[str]:
        """See `InferClient.release`; `served` has the version of each served encoder."""
        before, server.idle = server.idle, {}
        try:
            index = await self._index(server)
        except Unavailable as error:
            return [error.message]
        problems = []
        for model in (*served, *gone):
            states, kept = index[model], served.get(model)
            ready = {version for version, state in states.items() if state == READY}
            if kept is not None and (LOADING in states.values() or not ready - {kept}):
                continue
            try:
                if kept is None or kept in ready:
                    await self._unload_unused(server, model, kept, before, looks)
                else:
                    await self.load(server, model, kept, CHANGE_S)
            except Unavailable as error:
                problems.append(error.message)
        return problems

    async def rows(self, server: Server, model: str) -> dict[int, int]:
        """How many rows each version has run since it was loaded; empty if Triton does not say."""
        request = service_pb2.ModelStatisticsRequest(name=model)
        try:
            with detect_closing():
                answer = await server.stub.ModelStatistics(
                    request, timeout=PROBE_TIMEOUT_S, metadata=await self._secret.metadata()
                )
        except (grpc.aio.AioRpcError, SecretError):
            return {}
        return {int(each.version): each.inference_count for each in answer.model_stats}

    async def _unload_unused(
        self, server: Server, model: str, kept: int | None, before: Idle, looks: float
    ) -> None:
        # The statistics name what is loaded, even where its folder is gone; the index does not.
        loaded = await self.rows(server, model)
        unused = set()
        for version, rows in loaded.items():
            last, found = before.get((model, version), (-1, 0))
            found = found + 1 if rows == last else 0
            server.idle[model, version] = rows, found
            if version != kept and found >= looks:
                unused.add(version)
        if not unused:
            return
        if unused == loaded.keys():
            await self.unload(server, model)
        else:
            await self._load(server, model, loaded.keys() - unused, CHANGE_S)
        numbers = ", ".join(map(str, sorted(unused)))
        logger.info("Triton at %s unloads %s, version %s: unused", server.address, model, numbers)

    async def unload(self, server: Server, model: str) -> None:
        """Unload an encoder, in every version. Raises Unavailable: it cannot."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        with self._asking(server, f"{model}: "):
            await server.stub.RepositoryModelUnload(
                request, timeout=CHANGE_S, metadata=await self._secret.metadata()
            )

    async def asleep(self, server: Server, model: str, version: int) -> bool:
        """Whether a version was unloaded, or is just about to be or to be loaded again.

        False where it could not be loaded, and where Triton does not say.
        """
        try:
            state = (await self._index(server))[model].get(version)
            return state in (UNLOADED, UNLOADING, LOADING)
        except Unavailable:
            return False

    async def _load(
        self, server: Server, model: str, versions: Collection[int], within: float
    ) -> None:
        """Have exactly these versions loaded."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        config = await asyncio.to_thread(self._config, model, versions)
        request.parameters["config"].string_param = config
        with self._asking(server, f"{model}: "):
            await server.stub.RepositoryModelLoad(
                request, timeout=within, metadata=await self._secret.metadata()
            )

    def _config(self, model: str, versions: Collection[int]) -> str:
        path = self._repository / model / CONFIG
        try:
            config = text_format.Parse(read_file(path).decode(), model_config_pb2.ModelConfig())
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            raise Unavailable(f"{path}: {error}") from error
        config.version_policy.specific.versions[:] = sorted(versions)
        return json_format.MessageToJson(config, preserving_proto_field_name=True)

    async def _index(self, server: Server, about: str = "") -> Mapping[str, Versions]:
        with self._asking(server, about):
            answer = await server.stub.RepositoryIndex(
                service_pb2.RepositoryIndexRequest(),
                timeout=INDEX_S,
                metadata=await self._secret.metadata(),
            )
        found: dict[str, dict[int, str]] = defaultdict(dict)
        for each in answer.models:
            if each.version:  # else it was never loaded
                unloaded = each.reason == UNLOADED
                found[each.name][int(each.version)] = UNLOADED if unloaded else each.state
        return found

    @contextmanager
    def _asking(self, server: Server, about: str) -> Iterator[None]:
        """Around a call that needs the secret; `about` begins the message of its error.

        Raises:
            Unavailable: Triton refuses, or cannot be asked; the message says why.
        """
        try:
            with server.working(), detect_closing():
                yield
        except SecretError as error:
            raise Unavailable(f"{about}{error}") from error
        except grpc.aio.AioRpcError as error:
            why = " ".join((error.details() or "").split())[:REASON]  # it may hold a traceback
            # Triton names the metadata that is missing.
            hint = self._secret.hint() if METADATA in why else ""
            raise Unavailable(f"{about}Triton at {server.address}: {why}{hint}") from error
