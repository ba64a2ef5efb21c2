import random
import string
from pathlib import Path

import open_clip
import pytest
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from export.errors import TokenizerError
from export.gate.samples import TEXTS
from export.source.tokenizer import check_tokenizer, write_tokenizer
from gateway.models.manifest import Tokenizer
from tests.export.models import save_tokenizer

HARD = [
    "",
    " ",
    "a photo of a cat",
    "A PHOTO of a Cat's tail, isn't it? They'll've 'S 'RE",
    "<start_of_text>",
    "<end_of_text>",
    "cat <end_of_text> dog<start_of_text>bird <START_OF_TEXT> <\u017ftart_of_text>",
    "!!<end_of_text>!!",
    "&amp;lt;b&amp;gt; &eacute; &#128512;",
    "😀 👩‍👩‍👧‍👦 🇨🇭 🏳️‍🌈 text",
    "İstanbul ẞ ﬁ ǅ Ωmega",
    "مرحبا بالعالم שלום 東京タワー",
    "e\u0301 n\u0303 \u200b\u200d\ufeff a\u0000b\u0007c\u00a0d",
    "1234567890 ½ ² ٣ ३",
    "a" * 10_000,
    "cat dog " * 1_250,
    "w_w__w ~~ \\n \\t `code` {json: [1, 2]}",
    "\n\r\t\v\f\u2028\u2029 lines",
]


def noise(count: int) -> list[str]:
    rng = random.Random(11)
    pools = [
        string.printable,
        "abc xyz'<>|&;",
        "".join(map(chr, range(0xA0, 0x250))),
        "".join(map(chr, range(0x300, 0x370))) + "aeo ",
        "".join(chr(rng.choice([rng.randrange(0x20, 0xD800), rng.randrange(0x1F300, 0x1FAFF)]))
                for _ in range(4000)),
    ]  # fmt: skip
    return ["".join(rng.choices(rng.choice(pools), k=rng.randrange(1, 90))) for _ in range(count)]


def test_simple_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    ours = open_clip.get_tokenizer("ViT-B-32")
    spec = write_tokenizer(ours, tmp_path / "t.json")
    assert spec.clean == "lower"
    check_tokenizer(ours, spec, tmp_path, HARD + noise(1500))


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_every_cleaner(clean: str, tmp_path: Path) -> None:
    ours = SimpleTokenizer(clean=clean, context_length=20)
    spec = write_tokenizer(ours, tmp_path / "t.json")
    assert (spec.clean, spec.context_length) == (clean, 20)
    check_tokenizer(ours, spec, tmp_path, HARD + noise(200))


def test_additional_special_tokens(tmp_path: Path) -> None:
    ours = SimpleTokenizer(additional_special_tokens=["<mask>"])
    spec = write_tokenizer(ours, tmp_path / "t.json")
    check_tokenizer(ours, spec, tmp_path, [*HARD, "a <mask> b<mask>", "<mas k>"])


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("pad", ["</s>", "<pad>"])
def test_hugging_face_tokenizer_gives_the_same_ids(strip: bool, pad: str, tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "saved", pad)
    ours = HFTokenizer(str(folder), context_length=16, strip_sep_token=strip)
    ours(["leaves truncation and padding set in the tokenizer"])
    spec = write_tokenizer(ours, tmp_path / "t.json")
    assert spec.zeroed_id == (1 if strip else None)
    assert spec.split_pattern is None
    check_tokenizer(ours, spec, tmp_path, HARD + noise(300))


def test_difference_is_found(tmp_path: Path) -> None:
    ours = SimpleTokenizer()
    spec = write_tokenizer(ours, tmp_path / "t.json")
    other = Tokenizer(**{**spec.model_dump(), "clean": "whitespace"})
    with pytest.raises(TokenizerError, match=r"differs from OpenCLIP's for 'A Cat': token 1 is"):
        check_tokenizer(ours, other, tmp_path, ["a cat", "A Cat"])


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="reduction_mask"):
        write_tokenizer(SimpleTokenizer(reduction_mask="random"), tmp_path / "t.json")
    folder = save_tokenizer(tmp_path / "saved")
    with pytest.raises(TokenizerError, match="clips"):
        write_tokenizer(HFTokenizer(str(folder), tokenizer_mode="clips"), tmp_path / "t.json")
    left = HFTokenizer(str(folder), padding_side="left")
    with pytest.raises(TokenizerError, match="padding_side"):
        write_tokenizer(left, tmp_path / "t.json")
    with pytest.raises(TokenizerError, match="unknown kind"):
        write_tokenizer(len, tmp_path / "t.json")  # type: ignore[arg-type]


def test_samples_hold_short_and_overlong_text() -> None:
    tokens = open_clip.get_tokenizer("ViT-B-32")(list(TEXTS))
    used = (tokens != 0).sum(-1)
    assert used.min() == 2
    assert (used == 77).sum() >= 2
    assert len(set(used.tolist())) > 10
