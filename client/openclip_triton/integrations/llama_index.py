"""A multi-modal embedding for LlamaIndex; needs the extra `llama-index`."""

import asyncio
from io import BytesIO
from pathlib import Path

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding

from openclip_triton.client import Client

BATCH = 256


class OpenClipEmbedding(MultiModalEmbedding):  # type: ignore[misc]
    """LlamaIndex's `MultiModalEmbedding`: texts and images in one space; safe for threads.

    Vectors are float [D], unit length. All methods raise ClientError: the first item that failed,
    or the call. The asynchronous methods run in threads.

    Args:
        client: The connection; the caller closes it.
        model: Its id; empty: the service's default model.
        dimensions: Number of leading entries to keep of each vector, scaled to unit length.
        options: Fields of LlamaIndex's `BaseEmbedding`; `embed_batch_size` is 256 by default.
    """

    _client: Client = PrivateAttr()
    _dimensions: int | None = PrivateAttr()

    def __init__(
        self, client: Client, *, model: str = "", dimensions: int | None = None, **options: object
    ) -> None:
        super().__init__(**{"model_name": model, "embed_batch_size": BATCH} | options)
        self._client = client
        self._dimensions = dimensions

    @classmethod
    def class_name(cls) -> str:
        """Name of the class in LlamaIndex's events."""
        return "OpenClipEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors = self._client.embed_texts(
            texts, model=self.model_name, dimensions=self._dimensions
        )
        found: list[list[float]] = vectors.tolist()
        return found

    def _get_image_embeddings(self, img_file_paths: list[str | BytesIO]) -> list[list[float]]:
        images = [
            image.getvalue() if isinstance(image, BytesIO) else Path(image)
            for image in img_file_paths
        ]
        vectors = self._client.embed_images(
            images, model=self.model_name, dimensions=self._dimensions
        )
        found: list[list[float]] = vectors.tolist()
        return found

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    def _get_image_embedding(self, img_file_path: str | BytesIO) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_image_embedding(self, img_file_path: str | BytesIO) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(
        self, img_file_paths: list[str | BytesIO]
    ) -> list[list[float]]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)
