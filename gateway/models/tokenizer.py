"""str -> int32 token ids, equal to those of OpenCLIP's own tokenizers."""

import html
import string
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import methodcaller
from pathlib import Path

import ftfy
import numpy as np
import regex
from tokenizers import Encoding, decoders
from tokenizers import Tokenizer as HuggingFaceTokenizer

from gateway.errors import TextError
from gateway.models.manifest import ManifestError, Tokenizer, file_sha256
from gateway.models.values import TokenIds, Tokens

WORD_END = "</w>"  # of the last token of a word, in CLIP's tokenizers
_GROUP = methodcaller("group")  # the whole match
_PUNCTUATION = str.maketrans("", "", string.punctuation)

# The characters that ftfy removes, and white space that it does not take for a wrong encoding. A
# line of only these has no words; ftfy takes ten times as long to find that out.
_BLANK = dict.fromkeys(
    (
        *range(0x21), 0x7F, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F,
        *range(0x206A, 0x2070), 0x3000, 0xFEFF, *range(0xFFF9, 0xFFFD),
    )
)  # fmt: skip


def clean(text: str, how: str) -> str:
    """Clean text as `open_clip.tokenizer.get_clean_fn(how)` does.

    Args:
        text: Any text without lone surrogates.
        how: `lower`, `whitespace` or `canonicalize` (lower case, no punctuation; SigLIP).

    Raises:
        TextError: A character reference of HTML has thousands of digits.
    """
    return " ".join(clean_lines(text, how))


def clean_lines(text: str, how: str) -> Iterator[str]:
    """Clean the lines of a text, one by one as they are consumed; skip lines without words.

    Cleaning line by line gives the same as cleaning the whole text. ftfy itself goes line by line,
    and carries over only whether there was a `<`. No HTML character reference and no word holds a
    line break, and the lower case of a capital sigma depends on its word alone.
    """
    html_seen, start = False, 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        line = text[start:end]
        start = end
        unescape = False if html_seen else "auto"
        html_seen = html_seen or "<" in line
        # ftfy changes nothing in plain ASCII, but takes long to check it.
        if "&" in line or not (line.isascii() and line.rstrip("\n").isprintable()):
            if not line.translate(_BLANK):
                continue
            line = _unescaped(ftfy.fix_text(line, unescape_html=unescape))
        if how == "canonicalize":
            line = line.replace("_", " ").translate(_PUNCTUATION).lower()
        line = " ".join(line.split())
        if line:
            yield line.lower() if how == "lower" else line


def _unescaped(text: str) -> str:
    try:
        return html.unescape(html.unescape(text))
    except ValueError as error:  # Python converts no number of over 4,300 digits
        raise TextError("the text holds a character reference of too many digits") from error


def checked_file(spec: Tokenizer, repository: Path) -> Path:
    """The path of a tokenizer's file, after a check of its SHA-256.

    Raises:
        ManifestError: The file is missing, unreadable, or not the published one.
    """
    path = repository / spec.file
    try:
        found = file_sha256(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    if found != spec.sha256:
        raise ManifestError(f"{path}: its SHA-256 is not the one in the manifest")
    return path


class TextTokenizer:
    """The tokenizer of one model, or of several models that share it.

    Thread-safe: encoding keeps no state.
    """

    def __init__(self, spec: Tokenizer, repository: Path) -> None:
        """Load the tokenizer that a manifest names.

        Raises:
            ManifestError: Its file is missing, unreadable, or not the published one; or its split
            pattern is invalid.
        """
        path = checked_file(spec, repository)
        try:
            model = HuggingFaceTokenizer.from_file(str(path))
        except Exception as error:  # `tokenizers` raises bare Exception on a file it can't read
            raise ManifestError(f"{path}: not a tokenizer: {error}") from error
        model.enable_truncation(max_length=spec.context_length)
        model.no_padding()
        self._model = model
        self._spec = spec
        pattern = spec.split_pattern
        try:
            self._split = regex.compile(pattern, regex.IGNORECASE) if pattern else None
        except (regex.error, RecursionError) as error:
            raise ManifestError(f"{path}: tokenizer.split_pattern: {error}") from error
        if self._split and model.decoder is None:
            model.decoder = decoders.Sequence(
                [decoders.ByteLevel(), decoders.Replace(WORD_END, " ")]
            )
        self._special = {
            id_ for id_, token in model.get_added_tokens_decoder().items() if token.special
        }

    def encode(self, text: str, *, truncate: bool = True) -> Tokens:
        """Tokenize one text as `encode_all` does. Raises TextError: it cannot be tokenized."""
        [outcome] = self.encode_all([text], truncate=truncate)
        if isinstance(outcome, TextError):
            raise outcome
        return outcome

    def encode_all(
        self, texts: Sequence[str], *, truncate: bool = True
    ) -> list[Tokens | TextError]:
        """Tokenize texts without padding; each gives its tokens or an error.

        Like OpenCLIP, cuts a text over the context length, and keeps its end token. Errors are lone
        surrogates, a character reference of thousands of digits, and, if `truncate` is false, a
        text that is too long. Most of the work runs outside of Python, so other threads run
        meanwhile.
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

    def decode_all(self, ids: Sequence[Sequence[int]], skip_special: bool) -> list[str]:
        """The text of each list of token ids, as `clean` left it; unknown ids are left out."""
        left_out = self._special if skip_special else frozenset[int]()
        # The library's decoders may crash where nothing is left to decode.
        return [
            self._model.decode(known, skip_special_tokens=False).removesuffix(" ")
            if (known := [each for each in row if each not in left_out and self._knows(each)])
            else ""
            for row in ids
        ]

    def _knows(self, id_: int) -> bool:
        return self._model.id_to_token(id_) is not None

    def described(self, tokens: Tokens) -> list[tuple[int, str, bool]]:
        """The id and the text of each token, and whether it is special."""
        ids = tokens.ids.tolist()
        texts = self.decode_all([[each] for each in ids], skip_special=False)
        return [(id_, text, id_ in self._special) for id_, text in zip(ids, texts, strict=True)]

    def _words(self, text: str) -> str | list[str]:
        """The clean text, or its first words if the model takes words."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextError(
                f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character "
                f"{error.start}, which is not valid Unicode"
            ) from error
        if self._split is None:
            return clean(text, self._spec.clean)
        # A word is at least one token, so words beyond the context length would be cut off. They
        # are not cleaned either, which saves 200 bytes of memory a token.
        words: list[str] = []
        for line in clean_lines(text, self._spec.clean):
            found = islice(self._split.finditer(line), self._spec.context_length - len(words))
            words += map(_GROUP, found)
            if len(words) == self._spec.context_length:
                break
        return words

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
    """Pad token ids to int32 [length]."""
    out = np.full(length, pad_id, dtype=np.int32)
    out[: len(ids)] = ids
    return out
