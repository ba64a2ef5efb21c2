"""How many values a JSON text holds, counted without parsing it."""

import json
import random
from typing import Any

import pytest

from gateway.rest import json_limits
from gateway.rest.json_limits import count_values, has_long_wide_string


def values(parsed: Any) -> int:
    """Values and names, as a parser finds them."""
    if isinstance(parsed, list):
        return 1 + sum(map(values, parsed))
    if isinstance(parsed, dict):
        return 1 + sum(1 + values(each) for each in parsed.values())
    return 1


def made(chance: random.Random, depth: int) -> Any:
    kind = chance.random()
    if depth and kind < 0.3:
        return [made(chance, depth - 1) for _ in range(chance.randint(1, 5))]
    if depth and kind < 0.5:
        names = ["".join(chance.choices('a,"\\:[{', k=4)) + str(i) for i in range(3)]
        return {name: made(chance, depth - 1) for name in names}
    if kind < 0.9:
        return "".join(chance.choices('a"\\,:[{]} \né', k=chance.randint(0, 30)))
    return chance.choice([1, None, True, -2.5e7])


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 2**20])
@pytest.mark.parametrize("indent", [None, 1])
def test_as_many_as_a_parser_finds(
    chunk: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_limits, "CHUNK_BYTES", chunk)
    chance = random.Random(chunk)
    for _ in range(100):
        parsed = [made(chance, 5)]
        text = json.dumps(parsed, indent=indent).encode()
        assert count_values(text, 10**9) == values(parsed), text


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b'\\"', b"["])
def test_what_is_no_json_does_not_matter(end: bytes) -> None:
    assert count_values(b"[" * 1_000 + end, 10**9) >= 1_000


def test_counting_stops_where_it_is_too_much() -> None:
    text = b"0," * (4 * json_limits.CHUNK_BYTES)
    assert 100 < count_values(text, 100) < json_limits.CHUNK_BYTES


@pytest.mark.parametrize("offset", [0, 1, 2**19, 2**20 - 3, 2**20 - 1, 2**20, 2**20 + 1])
@pytest.mark.parametrize("wide", ["\N{GRINNING FACE}", "\\u00e9"])
def test_long_strings_of_wide_characters_are_found(offset: int, wide: str) -> None:
    def found(*strings: str) -> bool:
        text = " " * offset + "[" + ",".join(f'"{each}"' for each in strings) + "]"
        return has_long_wide_string(text.encode(), 1_000)

    long, short = "a" * 1_000, "a" * 900
    assert found(wide + long)
    assert found(long + wide)
    assert found("b", wide + "a" * 2**21, "c")
    assert found("b", "a" * 2**21 + wide)
    assert not found(long, long)
    assert not found(short, wide + short, short + wide, long)
    assert not found("a" * 2**21, wide)
    assert not found(wide, "a" * 2**21)
    assert not found("\\\\u" + long, '\\"' + long)  # an escaped backslash, and a quote
