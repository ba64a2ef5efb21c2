"""What requests embed, pictures above all, and the vectors that they get."""

import base64
from io import BytesIO
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.conftest import SAMPLES

RED_CIRCLE = (SAMPLES / "red-circle.png").read_bytes()


def encoded(image: Image.Image, name: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file in this format."""
    stream = BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{b64(data)}"


def sample(name: str) -> str:
    """A picture of docs/samples as a data URL."""
    kind = "jpeg" if name.endswith("jpg") else "png"
    return data_url((SAMPLES / name).read_bytes(), kind)


def vectors(api: httpx.Client, **body: Any) -> np.ndarray:
    """What `/v1/embeddings` answers, [n, D]."""
    response = api.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    return np.array([entry["embedding"] for entry in response.json()["data"]])
