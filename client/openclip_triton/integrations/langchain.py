"""Embeddings for LangChain; needs the extra `langchain`."""

from pathlib import Path

from langchain_core.embeddings import Embeddings

from openclip_triton.client import Client


class OpenClipEmbeddings(Embeddings):
    """LangChain's `Embeddings` for texts and, in the same space, images; safe for threads.

    Each list is one call or, if it is long, one stream. The asynchronous methods run in threads.

    Args:
        client: The connection; the caller closes it.
        model: Its id; empty: the service's default model.
        dimensions: Number of leading entries to keep of each vector, scaled to unit length.
    """

    def __init__(self, client: Client, *, model: str = "", dimensions: int | None = None) -> None:
        self._client = client
        self._model = model
        self._dimensions = dimensions

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts, in their order: [n][D], unit length.

        Raises:
            ClientError: The first text that failed, or the call.
        """
        if not texts:
            return []
        vectors = self._client.embed_texts(texts, model=self._model, dimensions=self._dimensions)
        found: list[list[float]] = vectors.tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """Embed a text: [D], unit length.

        Raises:
            ClientError: The call failed.
        """
        vectors = self._client.embed_texts([text], model=self._model, dimensions=self._dimensions)
        found: list[float] = vectors[0].tolist()
        return found

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """Embed image files, in their order: [n][D], unit length.

        Vector stores that take images, such as Chroma, call this method by its name.

        Args:
            uris: Paths of the files.

        Raises:
            ClientError: The first image that failed, or the call.
        """
        if not uris:
            return []
        vectors = self._client.embed_images(
            [Path(uri) for uri in uris], model=self._model, dimensions=self._dimensions
        )
        found: list[list[float]] = vectors.tolist()
        return found
