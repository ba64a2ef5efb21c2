"""What a message may hold, and what it becomes: a small one could hold millions of fields."""

from google.protobuf.message import Message

from gateway.admission.limits import RequestLimits
from gateway.errors import TooLarge
from gateway.rpc.wire import count_fields, string_bytes
from openclip_api.v1 import clip_pb2

STREAM_ITEMS = 5_000  # in one message of a stream; a stream may have any number of messages
_ITEM_FIELDS = 4  # of a stream's item, which is the largest: itself, its id, and an item's two
# How many times its bytes a message takes at worst until it is answered. Measured.
_BYTES = 3  # itself, parsed, and its images
_STRINGS = 2  # times more for strings: as such, and with the white space of base64 taken out
_WIDE = 3  # and where they are not all ASCII: one emoji makes each character four bytes
_CHARACTER_BYTES = 4  # at most
_LONG_BYTES = 2**20  # of a string whose memory matters
_WALKED_BYTES = 2**16  # of a smaller message all counts as such strings
_OTHER_FIELDS = 1_000  # those of the message, and such as are not known here


class Bounds:
    """Refuses messages that hold far more than any within the limits."""

    def __init__(self, limits: RequestLimits) -> None:
        """Takes the limits. They hold exactly later on; this is what it costs to come so far."""
        self._characters = limits.max_text_characters
        items = _ITEM_FIELDS * limits.max_items + _OTHER_FIELDS
        texts = limits.max_labels + limits.max_prompts
        of_items = f"the limit (GATEWAY_MAX_ITEMS) is {limits.max_items:,} items"
        of_texts = "GATEWAY_MAX_ITEMS, GATEWAY_MAX_LABELS and GATEWAY_MAX_PROMPTS allow less"
        self._most: dict[type[Message], tuple[int, str]] = {
            clip_pb2.EmbedRequest: (items, of_items),
            clip_pb2.ClassifyRequest: (items + texts, of_texts),
            clip_pb2.SimilarityRequest: (items, of_items),
            clip_pb2.RerankRequest: (items, of_items),
            clip_pb2.EmbedStreamRequest: (
                _ITEM_FIELDS * STREAM_ITEMS + _OTHER_FIELDS,
                f"send no more than {STREAM_ITEMS:,} items in one message of a stream",
            ),
            clip_pb2.ListModelsRequest: (_OTHER_FIELDS, "it takes none"),
        }

    def takes(self, schema: type[Message], data: bytes) -> int:
        """How many bytes a message takes at worst until it is answered.

        Raises:
            TooLarge: A string is longer than a text may be, and is no base64. It is not parsed, as
                it could become four times as large.
        """
        strings = wide = len(data)
        if len(data) > _WALKED_BYTES:
            most, _ = self._most[schema]
            strings, wide, longest = string_bytes(data, schema.DESCRIPTOR, most)
            if longest > max(_LONG_BYTES, _CHARACTER_BYTES * self._characters):
                raise TooLarge(
                    f"a text of {longest:,} bytes; the limit (GATEWAY_MAX_TEXT_CHARACTERS) is "
                    f"{self._characters:,} characters"
                )
        return _BYTES * len(data) + _STRINGS * strings + _WIDE * wide

    def check(self, schema: type[Message], data: bytes) -> None:
        """Refuses too many fields, in no more time than it takes to count the permitted ones.

        Raises:
            TooLarge: There are too many; names the field that most of them are.
        """
        most, reason = self._most[schema]
        if len(data) <= most:
            return
        counted, own = count_fields(data, schema.DESCRIPTOR, most)
        if counted <= most:
            return
        field = schema.DESCRIPTOR.fields_by_number.get(own.most_common(1)[0][0])
        param = field.name if field else None
        where = param or "the message"
        raise TooLarge(f"{where}: more than {most:,} fields; {reason}", param=param)
