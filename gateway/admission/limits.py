"""The limits of one request. Every refusal names its setting."""

from dataclasses import dataclass

from gateway.errors import MalformedRequest, TooLarge


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of one request, over either protocol.

    Raises `MalformedRequest` for missing content, and `TooLarge` for too much.
    """

    max_items: int
    max_labels: int
    max_prompts: int
    max_text_characters: int
    max_answer_bytes: int = 2**62  # of a response in memory

    def items(self, count: int, param: str, of: str | None = None) -> None:
        """Refuse a request with no items, or too many; `of` names what is counted together."""
        if not count:
            raise MalformedRequest(f"{param}: give at least one", param=param)
        if count > self.max_items:
            what = "items" if of is None else f"items ({of} together)"
            raise _over(param, count, what, "GATEWAY_MAX_ITEMS", self.max_items)

    def labels(self, labels: int, templates: int) -> None:
        """Refuse no labels or templates, too many labels, or too many labels times templates."""
        for count, param in ((labels, "labels"), (templates, "templates")):
            if not count:
                raise MalformedRequest(f"{param}: give at least one", param=param)
        if labels > self.max_labels:
            raise _over("labels", labels, "labels", "GATEWAY_MAX_LABELS", self.max_labels)
        if labels * templates > self.max_prompts:
            what = "labels times templates"
            raise _over("labels", labels * templates, what, "GATEWAY_MAX_PROMPTS", self.max_prompts)

    def answer(self, size: int, param: str, what: str) -> None:
        """Refuse a request whose answer would take too much memory; `what` names its bytes."""
        if size > self.max_answer_bytes:
            raise _over(param, size, what, "GATEWAY_MAX_INFLIGHT_BYTES", self.max_answer_bytes)

    def text(self, text: str, param: str) -> None:
        """Refuse an empty text, or one longer than a text may be."""
        if not text:
            raise MalformedRequest(f"{param}: the text is empty", param=param)
        self.characters(len(text), param)

    def characters(self, count: int, param: str) -> None:
        """Refuse a text of more characters than a text may have."""
        limit = self.max_text_characters
        if count > limit:
            raise _over(param, count, "characters", "GATEWAY_MAX_TEXT_CHARACTERS", limit)


def _over(param: str, count: int, what: str, setting: str, limit: int) -> TooLarge:
    return TooLarge(f"{param}: {count:,} {what}; the limit ({setting}) is {limit:,}", param=param)
