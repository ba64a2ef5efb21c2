"""Embeds items into one array: by one call if they are few, else by a stream."""

from collections.abc import Sequence

import numpy as np

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton import arguments, convert
from openclip_triton.channel import Channel
from openclip_triton.errors import InvalidRequest, ServiceFailed
from openclip_triton.streams.stream import Stream
from openclip_triton.values import C, Result, StreamSettings, Vector, Vectors

ONE_CALL_ITEMS = 64
ONE_CALL_BYTES = 2 * 2**20


def embed(
    channel: Channel,
    contents: Sequence[C],
    name: str,
    check: arguments.Check,
    options: pb.StreamOptions,
) -> Vectors:
    """Embed any number of items, in their order.

    Args:
        channel: The connection to the service.
        contents: The items.
        name: The name of the caller's argument, for errors.
        check: Checks each item.
        options: Apply to all items.

    Returns:
        float32 [n, D], unit length.

    Raises:
        TypeError: As for `arguments.each`.
        ClientError: The first item that failed, named as `input[i]`, or the call.
    """
    size = sum(map(convert.size_of, arguments.each(contents, name, check)))
    if len(contents) == 0:  # an array has no truth value
        raise InvalidRequest("input: give at least one", param="input")
    if len(contents) > ONE_CALL_ITEMS or size > ONE_CALL_BYTES:
        return _embed_stream(channel, contents, options)
    given = {field.name: value for field, value in options.ListFields()}
    request = pb.EmbedRequest(input=arguments.messages(contents, "input", check), **given)
    answer = channel.unary(channel.stub.Embed, request)
    return np.stack([convert.to_vector(row.embedding.vector) for row in answer.results])


def _embed_stream(channel: Channel, contents: Sequence[C], options: pb.StreamOptions) -> Vectors:
    stream = Stream(
        enumerate(contents),
        channel.open_stream,
        options,
        address=channel.address,
        settings=StreamSettings(),
        ordered=True,
    )
    return np.stack([_vector_of(result) for result in stream.results()])


def _vector_of(result: Result[int]) -> Vector:
    if result.vector is not None:
        return result.vector
    error = result.error or ServiceFailed("the service sent neither a vector nor an error")
    error.locate(f"input[{result.id}]")
    raise error
