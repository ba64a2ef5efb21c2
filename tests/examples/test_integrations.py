"""The embeddings for LangChain and LlamaIndex answer as the client does."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from openclip_triton import Client, ClientError

from tests.client.conftest import environment
from tests.conftest import ROOT, SAMPLES, GatewayClient
from tests.examples.test_examples import python_with

TEXTS = ["a red circle", "a blue star"]
IMAGES = [SAMPLES / "red-circle.png", SAMPLES / "blue-star.jpg"]

# Prints what each method of the LlamaIndex embedding answers, by its name, as JSON.
LLAMA_INDEX = """
import asyncio, io, json, pathlib, sys
from openclip_triton import Client, ClientError
from openclip_triton.integrations.llama_index import OpenClipEmbedding
address, texts, images = sys.argv[1], *map(json.loads, sys.argv[2:])
def opened(path):
    return io.BytesIO(pathlib.Path(path).read_bytes())
with Client(address) as client:
    embedding = OpenClipEmbedding(client, dimensions=16)
    found = {
        "texts": embedding.get_text_embedding_batch(texts),
        "text": [embedding.get_text_embedding(text) for text in texts],
        "query": [embedding.get_query_embedding(text) for text in texts],
        "images": embedding.get_image_embedding_batch(images),
        "image": [embedding.get_image_embedding(opened(each)) for each in images],
        "async texts": asyncio.run(embedding.aget_text_embedding_batch(texts)),
        "async text": [asyncio.run(embedding.aget_text_embedding(text)) for text in texts],
        "async query": [asyncio.run(embedding.aget_query_embedding(text)) for text in texts],
        "async images": asyncio.run(embedding.aget_image_embedding_batch(images)),
        "async image": [asyncio.run(embedding.aget_image_embedding(each)) for each in images],
    }
    try:
        embedding.get_image_embedding("gone.png")
    except ClientError as error:
        found["error"] = error.code
    found["none"] = embedding.get_text_embedding_batch([])
    print(json.dumps(found | {"batch": embedding.embed_batch_size}))
"""


@pytest.fixture(scope="module")
def client(api: GatewayClient) -> Iterator[Client]:
    with Client(api.grpc_address) as client:
        yield client


async def test_langchain(client: Client) -> None:
    from openclip_triton.integrations.langchain import OpenClipEmbeddings

    embeddings = OpenClipEmbeddings(client, dimensions=16)
    texts = client.embed_texts(TEXTS, dimensions=16)
    images = client.embed_images(IMAGES, dimensions=16)
    for found, expected in [
        (embeddings.embed_documents(TEXTS), texts),
        (await embeddings.aembed_documents(TEXTS), texts),
        ([embeddings.embed_query(text) for text in TEXTS], texts),
        ([await embeddings.aembed_query(text) for text in TEXTS], texts),
        (embeddings.embed_image([str(path) for path in IMAGES]), images),
    ]:
        assert {type(entry) for row in found for entry in row} == {float}
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert embeddings.embed_documents([]) == embeddings.embed_image([]) == []
    with pytest.raises(ClientError, match=r"gone\.png"):
        embeddings.embed_image(["gone.png"])


def test_llama_index(client: Client) -> None:
    given = [json.dumps(TEXTS), json.dumps([str(path) for path in IMAGES])]
    ran = subprocess.run(
        [python_with(False), "-c", LLAMA_INDEX, client.address, *given],
        cwd=ROOT, env=environment(client.address), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    assert (found.pop("error"), found.pop("batch"), found.pop("none")) == (
        "unreadable_file",
        256,
        [],
    )
    texts = client.embed_texts(TEXTS, dimensions=16)
    images = client.embed_images(IMAGES, dimensions=16)
    assert len(found) == 10
    for name, vectors in found.items():
        np.testing.assert_allclose(vectors, images if "image" in name else texts, atol=1e-5)
