"""`python -m benchmarks.systems.torch_server`: serves plain OpenCLIP in PyTorch with FastAPI.

A minimal server: text padded to the full context, one request at a time, the library's defaults.
It accepts the requests of our REST API, so the same load drives it.
"""

import argparse
import asyncio
import base64
from io import BytesIO
from typing import Annotated

import open_clip
import torch
import uvicorn
from fastapi import Body, FastAPI, Request
from PIL import Image


def create_app(name: str, pretrained: str | None) -> FastAPI:
    """Create the server; without `pretrained` its weights are random, which are equally fast."""
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=pretrained)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    app = FastAPI()
    one_at_a_time = asyncio.Lock()

    @app.post("/v1/embeddings")
    async def embed(
        input: Annotated[str | list[str], Body()],  # noqa: A002 (OpenAI's name)
        modality: Annotated[str, Body()] = "text",
    ) -> dict[str, object]:
        given = [input] if isinstance(input, str) else input
        async with one_at_a_time:
            if modality == "text":
                return _answer(await asyncio.to_thread(_encode_text, given))
            files = [base64.b64decode(url.partition(",")[2]) for url in given]
            return _answer(await asyncio.to_thread(_encode_images, files))

    @app.post("/v1/embeddings/image")
    async def image(request: Request) -> dict[str, object]:
        data = await request.body()
        async with one_at_a_time:
            return _answer(await asyncio.to_thread(_encode_images, [data]))

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    @torch.inference_mode()
    def _encode_text(given: list[str]) -> torch.Tensor:
        vectors: torch.Tensor = model.encode_text(tokenizer(given), normalize=True)
        return vectors

    @torch.inference_mode()
    def _encode_images(files: list[bytes]) -> torch.Tensor:
        pictures = [transform(Image.open(BytesIO(data)).convert("RGB")) for data in files]
        vectors: torch.Tensor = model.encode_image(torch.stack(pictures), normalize=True)
        return vectors

    return app


def _answer(vectors: torch.Tensor) -> dict[str, object]:
    rows = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors.tolist())
    ]
    return {"object": "list", "data": rows}


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.systems.torch_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="an OpenCLIP name")
    parser.add_argument("--pretrained", help="tag or checkpoint file (default: random weights)")
    parser.add_argument("--port", type=int, default=8090)
    given = parser.parse_args()
    app = create_app(given.model, given.pretrained)
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
