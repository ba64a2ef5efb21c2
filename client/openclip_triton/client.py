"""The client: one connection to the service, shared by all calls."""

from collections.abc import Generator, Iterable, Sequence

import numpy as np

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton import arguments, calls
from openclip_triton.channel import Connected
from openclip_triton.streams.exchange import Order
from openclip_triton.streams.stream import results
from openclip_triton.values import (
    C,
    Content,
    Image,
    K,
    Model,
    Prediction,
    Ranked,
    Result,
    Similarity,
    Space,
    StreamSettings,
    Vectors,
)


class Client(Connected):
    """A client of openclip.v1.ClipService: a context manager, safe for threads.

    Args:
        address: host:port of the service's gRPC API.
        timeout: Limit of one call in seconds, retries included. Streams have no limit.
        api_key: The key, sent as `authorization: Bearer`.
        tls: Whether to encrypt. Without `tls_ca`, the system's certificate authorities are trusted.
        tls_ca: PEM file of the certificate authorities to trust. Implies `tls`.
        tls_cert: PEM file of the client's certificate; needs `tls_key`. Implies `tls`.
        tls_key: PEM file of its key.

    Raises:
        ValueError: Only one of `tls_cert` and `tls_key` is given.
        UnreadableFile: A file of TLS cannot be read.
    """

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def embed_texts(
        self,
        texts: Sequence[str],
        *,
        model: str = "",
        dimensions: int | None = None,
        truncate: bool | None = None,
    ) -> Vectors:
        """Embed any number of texts, in their order: float32 [n, D], unit length.

        The options are those of `stream`.

        Raises:
            TypeError: `texts` is a single text, or an item is not a text.
            ClientError: The first text that failed, or the call.
        """
        options = pb.StreamOptions(model=model, dimensions=dimensions, truncate=truncate)
        return self._embed(calls.Batch(texts, "texts", arguments.check_text, options))

    def embed_images(
        self, images: Sequence[Image], *, model: str = "", dimensions: int | None = None
    ) -> Vectors:
        """Embed any number of images, in their order: float32 [n, D], unit length.

        Args:
            images: Bytes of JPEG, PNG, ..., or files as pathlib.Path.
            model: As for `stream`.
            dimensions: As for `stream`.

        Raises:
            TypeError: `images` is a single image, or an item is not an image (a str is a text).
            ClientError: The first image that failed, or the call.
        """
        options = pb.StreamOptions(model=model, dimensions=dimensions)
        return self._embed(calls.Batch(images, "images", arguments.check_image, options))

    def _embed(self, batch: calls.Batch[C]) -> Vectors:
        call = batch.call()
        if call is not None:
            return self._unary(call)
        order = Order(batch.options, self.address, StreamSettings(), ordered=True)
        found = results(enumerate(batch.contents), self._open_stream, order)
        return np.stack([calls.vector_of(result) for result in found])

    def space(self, *, model: str = "", dimensions: int | None = None) -> Space:
        """Return the model that the service uses for these options, and the size of its vectors.

        Raises:
            ClientError: The call failed.
        """
        return self._unary(calls.space(model, dimensions))

    def stream(
        self,
        items: Iterable[tuple[K, Content]],
        *,
        model: str = "",
        dimensions: int | None = None,
        truncate: bool | None = None,
        fingerprint: str | None = None,
        ordered: bool = False,
        settings: StreamSettings | None = None,
    ) -> Generator[Result[K], None, None]:
        """Embed any number of items in bounded memory; each gets one result.

        The stream reads at most `settings.max_items` items and `settings.max_bytes` bytes ahead of
        the results, and stops reading while no results are taken. It retries items whose error may
        pass, and opens a new connection for unanswered items when one is lost.

        Args:
            items: Pairs of an id of your choice and a text (str), an encoded image (bytes) or an
                image file (pathlib.Path). A `Client` takes them in other threads, one at a time; an
                `AsyncClient` in the event loop.
            model: Id of the model; empty for the default.
            dimensions: Number of leading entries to keep of each vector, scaled to unit length.
            truncate: False makes text over the context length an error.
            fingerprint: Refuse vectors of any other model.
            ordered: Yield results in the order of the items, not of completion.
            settings: Limits of memory and retries.

        Raises:
            TypeError: An element of `items` is not such a pair.
            ClientError: The whole stream failed after all retries. Errors of single items are
                results.
        """
        options = pb.StreamOptions(model=model, dimensions=dimensions, truncate=truncate)
        order = Order(
            options, self.address, settings or StreamSettings(), fingerprint, ordered=ordered
        )
        return results(items, self._open_stream, order)

    def classify(
        self,
        images: Sequence[Image],
        labels: Sequence[str] = (),
        *,
        label_set: str = "",
        templates: Sequence[str] = (),
        template_set: str = "",
        top_k: int | None = None,
        model: str = "",
    ) -> list[list[Prediction]]:
        """Score labels for each image, best first.

        Args:
            images: Bytes of JPEG, PNG, ..., or files as pathlib.Path; at most one request's limit.
            labels: The labels to choose from, unless `label_set` names some.
            label_set: Name of a label set of the service.
            templates: Texts with `{}` in place of the label, unless `template_set` names some.
            template_set: Name of a template set of the service.
            top_k: Number of labels for each image; default all.
            model: Id of the model; empty for the default.

        Raises:
            TypeError: An argument is not a list, or an item has the wrong type.
            ClientError: An image, a label or the call failed.
        """
        return self._unary(
            calls.classify(images, labels, label_set, templates, template_set, top_k, model)
        )

    def similarity(
        self, texts: Sequence[str], images: Sequence[Image], *, model: str = ""
    ) -> Similarity:
        """Compare every image with every text.

        Raises:
            TypeError: An argument is not a list, or an item has the wrong type.
            ClientError: A text, an image or the call failed.
        """
        return self._unary(calls.similarity(texts, images, model))

    def rerank(
        self,
        query: Content,
        documents: Sequence[Content],
        *,
        top_n: int | None = None,
        model: str = "",
    ) -> list[Ranked]:
        """Rank documents, each a text or an image, by similarity to the query, best first.

        A str is a text, even if it is a path; an image is bytes or a pathlib.Path.

        Raises:
            TypeError: `documents` is a single item, or an item is neither text nor image.
            ClientError: The query, a document or the call failed.
        """
        return self._unary(calls.rerank(query, documents, top_n, model))

    def models(self) -> list[Model]:
        """List the served models.

        Raises:
            ClientError: The call failed.
        """
        return self._unary(calls.models())
