"""The client: one connection to the service, shared by all calls."""

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Self

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton import arguments, batch, convert
from openclip_triton.channel import Channel, Encryption
from openclip_triton.stream import Stream
from openclip_triton.values import (
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


class Client:
    """Speaks openclip.v1.ClipService. A context manager; may be used by several threads.

    Args:
        address: host:port of the service's gRPC.
        timeout: Seconds that one call may take, retries included. Streams have no limit.
        api_key: The key, sent as `authorization: Bearer`.
        tls: Whether to encrypt; with `tls_ca`, or the machine's own certificate authorities.
        tls_ca: File of the certificate authorities to trust, PEM. Implies `tls`.
        tls_cert: File of our own certificate, PEM, with `tls_key`. Implies `tls`.
        tls_key: File of its key, PEM.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8081",
        *,
        timeout: float = 60.0,
        api_key: str | None = None,
        tls: bool = False,
        tls_ca: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
    ) -> None:
        self.address = address
        own = (tls_cert, tls_key) if tls_cert and tls_key else None
        encryption = Encryption(tls_ca, own) if tls or tls_ca or own else None
        self._channel = Channel(address, timeout, api_key, encryption)
        self._stub = self._channel.stub

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def embed_texts(
        self,
        texts: Sequence[str],
        *,
        model: str = "",
        dimensions: int | None = None,
        truncate: bool | None = None,
    ) -> Vectors:
        """The vectors of any number of texts, in their order: float32 [n, D], unit length.

        The options are those of `stream`.

        Raises:
            TypeError: `texts` is one text, or holds what is none.
            ClientError: What was wrong with the first text that failed, or with the call.
        """
        options = pb.StreamOptions(model=model, dimensions=dimensions, truncate=truncate)
        return batch.embed(self._channel, texts, "texts", arguments.check_text, options)

    def embed_images(
        self, images: Sequence[Image], *, model: str = "", dimensions: int | None = None
    ) -> Vectors:
        """The vectors of any number of images, in their order: float32 [n, D], unit length.

        Args:
            images: Bytes of JPEG, PNG, ..., or files as pathlib.Path.
            model: As for `stream`.
            dimensions: As for `stream`.

        Raises:
            TypeError: `images` is one image, or holds what is none, such as a path that is a str.
            ClientError: What was wrong with the first image that failed, or with the call.
        """
        options = pb.StreamOptions(model=model, dimensions=dimensions)
        return batch.embed(self._channel, images, "images", arguments.check_image, options)

    def space(self, *, model: str = "", dimensions: int | None = None) -> Space:
        """The model that the service would use, and the size of its vectors."""
        request = pb.EmbedRequest(
            model=model, input=[pb.Item(text="a photo")], dimensions=dimensions
        )
        answer = self._channel.unary(self._stub.Embed, request)
        return Space(answer.model, answer.fingerprint, answer.dimensions)

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
        """Embeds any number of items in bounded memory; each gets one result.

        Items are taken ahead of the results by at most `settings.max_items` and
        `settings.max_bytes`; when results are not taken, no further items are. Items whose error
        may pass are tried again, and when the connection is lost a new one is opened for what was
        not answered.

        Args:
            items: Pairs of an id of yours and a text (str), an encoded image (bytes) or the file
                of an image (pathlib.Path). Consumed in other threads, one at a time.
            model: Id of the model; may be empty where one is served.
            dimensions: Keep so many entries of each vector, scaled to unit length again.
            truncate: False makes text over the context length an error.
            fingerprint: Refuse vectors of any other model than this.
            ordered: Results in the order of the items, instead of as they come.
            settings: How much to hold at a time, and how long to try.

        Raises:
            TypeError: What is taken from `items` is no such pair.
            ClientError: The stream as a whole cannot go on, after all retries. Errors of
                single items are results.
        """
        options = pb.StreamOptions(model=model, dimensions=dimensions, truncate=truncate)
        return Stream(
            items,
            self._channel.open_stream,
            options,
            address=self.address,
            settings=settings or StreamSettings(),
            fingerprint=fingerprint,
            ordered=ordered,
        ).results()

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
        """The best labels of each image, best first.

        Args:
            images: Bytes of JPEG, PNG, ..., or paths; as many as one request may hold.
            labels: The labels to choose from; or `label_set`, one that the service holds.
            label_set: Name of the service's own set of labels.
            templates: Texts with `{}` where the label goes; or `template_set`.
            template_set: Name of the service's own set of templates.
            top_k: How many labels of each image; default all.
            model: Id of the model; may be empty where one is served.

        Raises:
            TypeError: An argument is no list, or holds what it may not.
            ClientError: An image, a label or the call is wrong.
        """
        request = pb.ClassifyRequest(
            model=model,
            images=arguments.messages(images, "images", arguments.check_image),
            labels=arguments.texts(labels, "labels"),
            label_set=label_set,
            templates=arguments.texts(templates, "templates"),
            template_set=template_set,
            top_k=top_k,
        )
        answer = self._channel.unary(self._stub.Classify, request)
        return [[convert.to_prediction(p) for p in row.predictions] for row in answer.results]

    def similarity(
        self, texts: Sequence[str], images: Sequence[Image], *, model: str = ""
    ) -> Similarity:
        """Compares every image with every text.

        Raises:
            TypeError: An argument is no list, or holds what it may not.
            ClientError: A text, an image or the call is wrong.
        """
        request = pb.SimilarityRequest(
            model=model,
            texts=arguments.texts(texts, "texts"),
            images=arguments.messages(images, "images", arguments.check_image),
        )
        answer = self._channel.unary(self._stub.Similarity, request)
        return Similarity(
            convert.to_matrix(answer.cosine),
            convert.to_matrix(answer.logits_per_image),
            convert.to_matrix(answer.logits_per_text),
        )

    def rerank(
        self,
        query: Content,
        documents: Sequence[Content],
        *,
        top_n: int | None = None,
        model: str = "",
    ) -> list[Ranked]:
        """Documents by their likeness to the query, best first; each a text or an image.

        A str is a text, even if it is a path; an image is bytes or a pathlib.Path.

        Raises:
            TypeError: `documents` is a single one, or something is neither text nor image.
            ClientError: The query, a document or the call is wrong.
        """
        request = pb.RerankRequest(
            model=model,
            query=arguments.message(query, "query"),
            documents=arguments.messages(documents, "documents", arguments.check_content),
            top_n=top_n,
        )
        answer = self._channel.unary(self._stub.Rerank, request)
        return [Ranked(found.index, found.relevance_score) for found in answer.results]

    def models(self) -> list[Model]:
        """The served models.

        Raises:
            ClientError: The call failed.
        """
        answer = self._channel.unary(self._stub.ListModels, pb.ListModelsRequest())
        return [convert.to_model(model) for model in answer.models]
