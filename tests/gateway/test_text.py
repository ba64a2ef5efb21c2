"""Token ids are OpenCLIP's own, for every string."""

import json
import random
from itertools import product
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer, canonicalize_text, get_clean_fn

from export.source.tokenizer import write_tokenizer
from gateway.errors import TextError
from gateway.models.manifest import ManifestError, file_sha256
from gateway.models.tokenizer import _BLANK, TextTokenizer, clean, padded
from gateway.models.values import TextItem
from gateway.pipeline.prepare import CHUNK, CHUNK_CHARACTERS, charge, parts

pytestmark = pytest.mark.slow

CONTEXT = 77
OPENCLIP = SimpleTokenizer(context_length=CONTEXT)

HAND_MADE = [
    "",
    " ",
    "\t\n  \r\n",
    "a",
    "A photo of a red circle.",
    "DON'T they're we've I'll he'd i'm it's",
    "'ſ'ſ 'S 'RE ' ' ''",
    "naïve café ÀÉÎÕÜ",
    "ﬁne ﬂow ½ ² ①",
    "ß İ ı Ǆ K Å",
    "&amp; &lt;b&gt; &amp;amp;amp; &nbsp; &#233; &#x1F600; &notit; &#0; &#55296;",
    "<start_of_text>",
    "<end_of_text>",
    "a<start_of_text>b",
    "!<end_of_text>!",
    "<START_OF_TEXT>",
    "<end_of_text> <end_of_text>x<end_of_text>",
    "<end_of_",
    "<start_of_text",
    "<|endoftext|> [CLS] </s>",
    "</w> a</w> </w></w>",
    "Ġ Ċ Ā",
    "👍🏽 👨‍👩‍👧‍👦 🇨🇭 🏳️‍🌈",
    "😀" * 300,
    "\x00\x01\x02\x7f\x80\x9f",
    "a\u200bb\u200dc\ufeff\u2060",
    "\u202eright to left\u202c",
    "\u0085\u2028\u2029",
    "שלום עולם",
    "مرحبا بالعالم ١٢٣",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "你好世界",
    "こんにちは",
    "한국어 조합",
    "e\u0301 a\u0308\u0323 Z\u0351\u036b\u0343",
    "q\u0307\u0323",
    "1234567890 3.14 1,000",
    "a_b__c",
    "x" * 10_000,
    "word " * 2_000,
    "é" * 10_000,
    "schÃ¶n â€œquotedâ€\x9d",
    "ï¿½",
    "\ufffd",
    "\U0010ffff",
    "\u0378\U000323b0",
    "http://a.b/c?d=e&f=g#h",
    "C:\\path\\to",
    "{}[]()<>|~`^",
    "—–…‘’“”«»",
    "a" + "\u0301" * 500,
]


def written(tokenizer: SimpleTokenizer, folder: Path) -> TextTokenizer:
    return TextTokenizer(write_tokenizer(tokenizer, folder / "tokenizer.json"), folder)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return written(OPENCLIP, tmp_path_factory.mktemp("tokenizer"))


def assert_same_ids(ours: TextTokenizer, text: str) -> None:
    expected = OPENCLIP([text])[0].numpy()
    found = padded(ours.encode(text).ids, CONTEXT, 0)
    np.testing.assert_array_equal(found, expected, err_msg=repr(text[:200]))


@pytest.mark.parametrize("text", HAND_MADE, ids=range(len(HAND_MADE)))
def test_hand_made(ours: TextTokenizer, text: str) -> None:
    assert_same_ids(ours, text)


def test_three_thousand_mixed_strings(ours: TextTokenizer) -> None:
    seeded = random.Random(20261121)
    pieces = [
        lambda: seeded.choice(
            ["a", "photo", "Of", "RED", "circle", "it's", "&amp;", "don't", "42", "x2"]
        ),
        lambda: chr(seeded.randrange(0x20, 0x250)),
        lambda: chr(seeded.randrange(0x250, 0xD800)),
        lambda: chr(seeded.randrange(0x1F300, 0x1FAFF)),
        lambda: chr(seeded.choice([*range(0x20), *range(0x7F, 0xA1), *range(0x2000, 0x2070)])),
        lambda: chr(seeded.choice([*range(0x300, 0x370), *range(0x590, 0x700)])),
        lambda: seeded.choice(
            ["<end_of_text>", "<start_of_text>", "&lt;", "&#", "\u00e9", "e\u0301"]
        ),
    ]
    for _ in range(3_000):
        glue = seeded.choice(["", " ", "  "])
        assert_same_ids(
            ours, glue.join(seeded.choice(pieces)() for _ in range(seeded.randrange(40)))
        )


def test_every_assigned_character(tmp_path: Path) -> None:
    openclip = SimpleTokenizer(context_length=4_096)  # which a chunk does not fill
    ours = written(openclip, tmp_path)
    # Every plane that has assigned characters; the others hold private use and nothing.
    codes = (*range(0xD800), *range(0xE000, 0x32400), *range(0xE0000, 0xE0200))
    characters = [chr(code) for code in codes]
    # In chunks, between letters, digits and signs, so that the class of each is seen to agree.
    for start in range(0, len(characters), 100):
        chunk = characters[start : start + 100]
        text = "".join(f"a{character}1{character}!" for character in chunk)
        expected = openclip.encode(text)
        assert len(expected) < 4_000
        assert ours.encode(text).ids.tolist()[1:-1] == expected, f"U+{ord(chunk[0]):04X}..."


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text(ours: TextTokenizer, text: str) -> None:
    assert_same_ids(ours, text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_cleaning_is_openclips(text: str) -> None:
    for how in ("lower", "whitespace", "canonicalize"):
        assert clean(text, how) == get_clean_fn(how)(text)
    assert clean("A_b,  C!", "canonicalize") == canonicalize_text("A_b,  C!") == "a b c"


# What tells whether cleaning line by line is cleaning the whole: line breaks of every kind, what
# becomes one, what is read differently after a `<`, what is joined with its neighbours, what
# vanishes, and what was decoded wrongly.
PIECES = st.sampled_from(
    [
        "\n", "\n", "\n", "\r", "\r\n", "\x0b", "\x1c", "\x85", "\u2028", "\u2029",
        "&#10;", "&#13;", "&NewLine;", "&amp;#10;", "&#1;", "&nbsp;",
        "<", "&lt;", "&LT;", "&", "am", "amp;", "&amp;", "&AMP", "#10", "lt;", "&notit;", "&eacute",
        "&EACUTE;", "Σ", "ΑΣ", "σ", "İ", "ß", "e", "\u0301", "ㄱ", "가", "\u11a8",
        "\u1100", "\u1161",
        "Ã", "©", "Â", "â€", "\x9d", "\x80", "\xa0", "œ", "\xed", "Ð", "Ñ", "¿", "½", "?", "ï", "»",
        "\x00", "\x1b", "[", "\x1b[", "31m", "m", "\ufeff", "\u200b", "\u200d", "\ufffc", "\u206a",
        " ", "\t", "\u3000", "\u1680", "_", "-", ".", "'", "'s", "’", "“", "ﬁ", "Ｆ", "a", "B", "1",
        "👍",
        "\U0001f3fd", "<start_of_text>", "<end_of_text>",
    ]
)  # fmt: skip
SEVERAL_LINES = st.lists(PIECES, max_size=40).map("".join)


@settings(max_examples=2_000, deadline=None)
@given(SEVERAL_LINES)
def test_cleaning_by_lines_is_openclips_of_the_whole(text: str) -> None:
    for how in ("lower", "whitespace", "canonicalize"):
        assert clean(text, how) == get_clean_fn(how)(text)


def test_blank_lines_are_blank_to_openclip_too() -> None:
    """Any two that are passed over, so that none of them takes part in a repair by ftfy."""
    whole = get_clean_fn("lower")
    blank = "\n".join("".join(pair) for pair in product(map(chr, _BLANK), repeat=2))
    assert whole(blank) == clean(blank, "lower") == ""


@settings(max_examples=200, deadline=None)
@given(SEVERAL_LINES, st.integers(1, 40))
def test_any_long_text_of_lines(ours: TextTokenizer, text: str, times: int) -> None:
    assert_same_ids(ours, text * times)
    over = len(OPENCLIP.encode(text * times)) > CONTEXT - 2
    assert ours.encode(text * times).truncated == over


def test_nothing_past_the_context_length_is_cleaned(
    ours: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended: list[str] = []

    def fix_text(text: str, **options: Any) -> str:
        mended.append(text)
        return str(mend(text, **options))

    mend = ftfy.fix_text
    monkeypatch.setattr(ftfy, "fix_text", fix_text)
    for text in (
        "é\n" * 16_384,
        "\n" * 16_384 + "é\n" * 16_384,
        "\x01\u3000\n" * 8_000 + "é\n" * 900,
    ):
        mended.clear()
        found = ours.encode(text).ids
        assert len(mended) == CONTEXT
        assert len(found) == CONTEXT


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff"])
def test_lone_surrogates_are_refused(ours: TextTokenizer, text: str) -> None:
    with pytest.raises(TextError, match="lone surrogate"):
        ours.encode(text)


def test_truncation_keeps_the_end_token_and_is_marked(ours: TextTokenizer) -> None:
    fits, over = "word " * (CONTEXT - 2), "word " * (CONTEXT - 1)
    assert not ours.encode(fits).truncated
    assert len(ours.encode(fits).ids) == CONTEXT
    cut = ours.encode(over)
    assert cut.truncated
    assert len(cut.ids) == CONTEXT
    assert cut.ids[-1] == OPENCLIP.eot_token_id
    ours.encode(fits, truncate=False)
    with pytest.raises(TextError, match="77 tokens") as caught:
        ours.encode(over, truncate=False)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("unit", ["a ", "a1!é ", "don't ", "😀", "<end_of_text>x ", "naïvely "])
@pytest.mark.parametrize("times", [9, 18, 25, 38, 75, 76, 77, 78, 5_000])
def test_long_text_is_cut_where_openclip_cuts_it(
    ours: TextTokenizer, unit: str, times: int
) -> None:
    text = unit * times
    expected = OPENCLIP([text])[0].numpy()
    found = ours.encode(text)
    np.testing.assert_array_equal(padded(found.ids, CONTEXT, 0), expected)
    assert found.truncated == (len(OPENCLIP.encode(text)) > CONTEXT - 2)
    assert len(ours._words(text)) <= CONTEXT  # the rest costs nothing


def test_few_characters_are_tokenized_at_a_time() -> None:
    sizes = [10] * 600 + [CHUNK_CHARACTERS // 3] * 7 + [2 * CHUNK_CHARACTERS] * 2 + [10]
    items = [TextItem("x" * size, str(index)) for index, size in enumerate(sizes)]
    cut = list(parts(items, CHUNK, CHUNK_CHARACTERS, charge))
    assert [item for chunk in cut for item in chunk] == items
    assert [len(chunk) for chunk in cut] == [256, 256, 90, 3, 2, 1, 1, 1]
    assert list(parts(items[:1], CHUNK, CHUNK_CHARACTERS, charge)) == [items[:1]]


def test_a_changed_or_missing_file_is_refused(tmp_path: Path) -> None:
    spec = write_tokenizer(OPENCLIP, tmp_path / "tokenizer.json")
    with (tmp_path / "tokenizer.json").open("a") as stream:
        stream.write(" ")
    with pytest.raises(ManifestError, match="SHA-256"):
        TextTokenizer(spec, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        TextTokenizer(spec, tmp_path)


def test_padding_of_the_file_is_passed_over(tmp_path: Path) -> None:
    spec = write_tokenizer(OPENCLIP, tmp_path / "tokenizer.json")
    plain = TextTokenizer(spec, tmp_path).encode("a").ids
    content = json.loads((tmp_path / spec.file).read_text())
    content["padding"] = {
        "strategy": {"Fixed": 1000}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
    }  # fmt: skip
    (tmp_path / spec.file).write_text(json.dumps(content))
    padding = spec.model_copy(update={"sha256": file_sha256(tmp_path / spec.file)})
    np.testing.assert_array_equal(TextTokenizer(padding, tmp_path).encode("a").ids, plain)
