"""Embeds a column of a dataset batch by batch, as Ray Data's `map_batches` calls it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openclip_triton import arguments
from openclip_triton.client import Client
from openclip_triton.values import Content

NOTHING = "no_content: the row has nothing to embed"


class BatchEmbedder:
    """Embeds one column of each batch with one client; a callable that is safe for threads.

    Args:
        server: host:port of the service's gRPC API.
        column: Column of texts (str) or encoded images (bytes).
        model: Its id; empty: the service's default model.
        dimensions: Number of leading entries to keep of each vector, scaled to unit length.
        truncate: Whether to cut text over the context length; False: such a row fails.
        fingerprint: Required fingerprint of the model; None: of the currently served one.
        output: Column for the vectors.
        error: Column for the reasons of rows that fail.
        api_key: As for `Client`; so are the rest.

    Raises:
        ClientError: The service cannot be reached, or does not serve the model.
    """

    def __init__(
        self,
        server: str,
        column: str,
        *,
        model: str = "",
        dimensions: int | None = None,
        truncate: bool | None = None,
        fingerprint: str | None = None,
        output: str = "embedding",
        error: str = "error",
        api_key: str | None = None,
        tls: bool = False,
        tls_ca: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
    ) -> None:
        self._client = Client(
            server, api_key=api_key, tls=tls, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key
        )
        self._space = self._client.space(model=model, dimensions=dimensions)
        self._fingerprint = fingerprint or self._space.fingerprint
        self._column = column
        self._dimensions = dimensions
        self._truncate = truncate
        self._output = output
        self._error = error

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add the vectors of a batch, float32 [n, D], and the reasons, str [n], to its columns.

        A row that fails has a vector of NaN and a reason such as `invalid_image: ...`; the others
        have an empty reason.

        Raises:
            KeyError: The batch has no such column.
            TypeError: A value of it is neither a text nor an encoded image.
            ClientError: The service cannot be reached, or refuses all; ModelChanged: it now
            serves another model.
        """
        if self._column not in batch:
            found = ", ".join(batch)
            raise KeyError(f"the batch has no column {self._column!r}, only {found}")
        contents = batch[self._column]
        vectors = np.full((len(contents), self._space.dimensions), np.nan, np.float32)
        errors = np.full(len(contents), "", object)
        results = self._client.stream(
            self._rows(contents, errors),
            model=self._space.model,
            dimensions=self._dimensions,
            truncate=self._truncate,
            fingerprint=self._fingerprint,
        )
        for result in results:
            if result.error is not None:
                errors[result.id] = f"{result.error.code}: {result.error.message}"
            else:
                vectors[result.id] = result.vector
        return {**batch, self._output: vectors, self._error: errors}

    def _rows(self, contents: NDArray[Any], errors: NDArray[Any]) -> Iterator[tuple[int, Content]]:
        if contents.dtype.kind == "S":
            raise TypeError(
                f"{self._column}: numpy's fixed-size bytes lose zeros at the end of an image; give "
                "an array of dtype object"
            )
        for row, content in enumerate(contents):
            if content is None:
                errors[row] = NOTHING
                continue
            arguments.check_content(content, f"{self._column}[{row}]")
            yield row, content
