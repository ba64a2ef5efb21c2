from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import open_clip
import pytest
from fastapi import FastAPI

from benchmarks.systems.torch_server import create_app
from benchmarks.traffic.photos import photos
from benchmarks.traffic.requests import images
from tests.export import models

NAME = "tiny-baseline"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    path: Path = models.write_config(tmp_path_factory.mktemp("model"), NAME, models.vit())
    open_clip.add_model_config(path)
    return create_app(NAME, None)


async def test_it_takes_the_requests_of_our_rest_api(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://torch") as client:
        assert (await client.get("/readyz")).status_code == httpx.codes.OK
        one = await client.post("/v1/embeddings", json={"model": "x", "input": "a dog"})
        two = await client.post("/v1/embeddings", json={"input": ["a dog", "a cat"]})
        image = await client.post("/v1/embeddings/image?model=x", content=photos()[0])
        headers = {"content-type": "application/json"}
        [request] = islice(images("x", 3, seed=0), 1)
        several = await client.post(request.path, content=request.body, headers=headers)
    vectors = [np.array(row["embedding"]) for row in two.json()["data"]]
    np.testing.assert_allclose(one.json()["data"][0]["embedding"], vectors[0], atol=1e-5)
    pictures = [np.array(row["embedding"]) for row in several.json()["data"]]
    np.testing.assert_allclose(image.json()["data"][0]["embedding"], pictures[0], atol=1e-5)
    assert len(pictures) == 3
    for vector in (*vectors, *pictures):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
