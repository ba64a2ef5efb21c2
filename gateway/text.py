"""str -> int32 token ids, the same ids as OpenCLIP's own tokenizers give."""

import html
import string
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import ftfy
import numpy as np
import regex
from tokenizers import Encoding
from tokenizers import Tokenizer as HuggingFaceTokenizer

from gateway.errors import TextError
from gateway.manifest import ManifestError, Tokenizer, file_sha256
from gateway.values import TokenIds, Tokens

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean(text: str, how: str) -> str:
    """Cleans text as `open_clip.tokenizer.get_clean_fn(how)` does.

    Args:
        text: Any text without lone surrogates.
        how: `lower`, `whitespace` or `canonicalize` (lower case, no punctuation; SigLIP).
    """
    # Neither of the two finds anything to mend in plain ASCII, and finding that out is dear.
    if not (text.isascii() and text.isprintable()) or "&" in text:
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if how == "canonicalize":
        text = text.replace("_", " ").translate(_PUNCTUATION).lower()
    text = " ".join(text.split())
    return text.lower() if how == "lower" else text


class TextTokenizer:
    """The tokenizer of one model.

    Thread-safe: encoding keeps no state.
    """

    def __init__(self, spec: Tokenizer, repository: Path) -> None:
        """Loads the tokenizer that a manifest names.

        Raises:
            ManifestError: Its file is missing, unreadable, or not the one that was published.
        """
        path = repository / spec.file
        try:
            found = file_sha256(path)
            model = HuggingFaceTokenizer.from_file(str(path)) if found == spec.sha256 else None
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
        except Exception as error:  # `tokenizers` raises bare Exception on a file it can't read
            raise ManifestError(f"{path}: not a tokenizer: {error}") from error
        if model is None:
            raise ManifestError(f"{path}: its SHA-256 is not the one in the manifest")
        model.enable_truncation(max_length=spec.context_length)
        self._model = model
        self._spec = spec
        self._split = (
            regex.compile(spec.split_pattern, regex.IGNORECASE) if spec.split_pattern else None
        )

    def encode(self, text: str, *, truncate: bool = True) -> Tokens:
        """Tokenizes one text; not padded.

        Text over the context length is cut with its end token kept, as OpenCLIP does.

        Raises:
            TextError: The text holds lone surrogates, or is too long and `truncate` is false.
        """
        words = self._words(text)
        return self._tokens(self._model.encode(words, is_pretokenized=bool(self._split)), truncate)

    def encode_all(
        self, texts: Sequence[str], *, truncate: bool = True
    ) -> list[Tokens | TextError]:
        """Tokenizes many texts, each with an error of its own; faster than one at a time.

        Other threads run meanwhile, as the most of it is done outside of Python.
        """
        outcomes: dict[int, Tokens | TextError] = {}
        words: dict[int, str | list[str]] = {}
        for index, text in enumerate(texts):
            try:
                words[index] = self._words(text)
            except TextError as error:
                outcomes[index] = error
        encodings = self._model.encode_batch(
            list(words.values()), is_pretokenized=bool(self._split)
        )
        for index, encoding in zip(words, encodings, strict=True):
            try:
                outcomes[index] = self._tokens(encoding, truncate)
            except TextError as error:
                outcomes[index] = error
        return [outcomes[index] for index in range(len(texts))]

    def _words(self, text: str) -> str | list[str]:
        """What the model encodes: the clean text, or its first words where it wants words."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextError(
                f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character "
                f"{error.start}, which is not valid Unicode"
            ) from error
        cleaned = clean(text, self._spec.clean)
        if self._split is None:
            return cleaned
        # A word is one token at least: whatever comes after these would be cut off, and it would
        # take 200 bytes for each token until then.
        words = islice(self._split.finditer(cleaned), self._spec.context_length)
        return [word.group() for word in words]

    def _tokens(self, encoding: Encoding, truncate: bool) -> Tokens:
        truncated = len(encoding) == self._spec.context_length and bool(encoding.overflowing)
        if truncated and not truncate:
            raise TextError(
                f"the text is over the model's context length of {self._spec.context_length} "
                "tokens; shorten it, or leave out `truncate: false`",
                code="context_length_exceeded",
            )
        ids = np.array(encoding.ids, dtype=np.int32)
        if self._spec.zeroed_id is not None:
            ids[ids == self._spec.zeroed_id] = 0
        return Tokens(ids, truncated)


def padded(ids: TokenIds, length: int, pad_id: int) -> TokenIds:
    """Token ids filled up to int32 [length] with the padding id."""
    out = np.full(length, pad_id, dtype=np.int32)
    out[: len(ids)] = ids
    return out
