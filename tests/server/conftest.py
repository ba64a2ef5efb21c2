from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc

from server.config import ServerConfig
from server.launcher import TritonServer
from server.secret import METADATA
from tests.server import tiny

EVERY_KEY = tiny.parameters(
    intra_op_thread_count="1",
    inter_op_thread_count="2",
    execution_mode="1",
    enable_mem_arena="false",
    enable_mem_pattern="0",
)


@dataclass
class Served:
    """A running server and how to ask it."""

    server: TritonServer
    client: grpc.InferenceServerClient
    log: list[str] = field(default_factory=list)

    @property
    def secret(self) -> dict[str, str]:
        """Headers of restricted requests: statistics, configuration and index."""
        return {METADATA: self.server.config.secret}

    def infer(self, model: str, name: str, array: np.ndarray) -> np.ndarray:
        types = {"uint8": "UINT8", "int32": "INT32"}
        source = grpc.InferInput(name, list(array.shape), types[str(array.dtype)])
        source.set_data_from_numpy(array)
        vector: np.ndarray = self.client.infer(model, [source]).as_numpy("vector")
        return vector

    def text(self, ids: list[list[int]], model: str = "demo.text-4") -> np.ndarray:
        return self.infer(model, "ids", np.array(ids, np.int32))


def build_repository(repository: Path) -> None:
    tiny.add_demo(repository, text=tiny.BATCHING)
    keys = f"optimization {{ graph {{ level: 2 }} }}\n{EVERY_KEY}"
    tiny.add_demo(repository, "keys", image=keys)
    wide = tiny.TEXT_IO.replace("dims: [ 4 ]", "dims: [ -1 ]")
    split = tiny.parameters(intra_op_thread_count="2", split_batches="1")
    config = f"max_batch_size: 8\n{tiny.ONE_INSTANCE}{wide}{split}"
    tiny.add_model(repository, "wide.text", tiny.text_graph("length"), config)
    image = f"max_batch_size: 8\n{tiny.ONE_INSTANCE}{tiny.IMAGE_IO}"
    tiny.add_model(repository, "wide.image", tiny.image_graph(), image)
    tiny.add_manifest(repository, "wide", "wide.image", [("wide.text", 77)])
    # A folder that no manifest names is not served.
    tiny.add_model(repository, "stray", tiny.text_graph(), tiny.ONE_INSTANCE)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("repository")
    build_repository(repository)
    with serving(repository) as served:
        yield served


@contextmanager
def serving(repository: Path) -> Iterator[Served]:
    """A running server on a repository."""
    config = ServerConfig(repository, grpc_port=0, metrics_port=0)
    log: list[str] = []
    with (
        TritonServer(config, log.append) as server,
        grpc.InferenceServerClient(server.addresses.grpc) as client,
    ):
        yield Served(server, client, log)
