"""The program that tries OpenCLIP's configurations, and the page that it wrote."""

import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import nn

from export.architectures.__main__ import PAGE
from export.architectures.attempt import try_bounded, try_export
from export.architectures.cut import BLOCKS, shorten, shorten_config
from export.architectures.page import page
from export.architectures.tried import Tried
from tests.conftest import ROOT
from tests.export import models


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a try changes in its process, which is not its own here, is as before afterwards."""
    monkeypatch.setattr(timm, "create_model", timm.create_model)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")


def tried(tmp_path: Path, name: str, config: dict[str, Any], *, cut: bool = True) -> Tried:
    open_clip.add_model_config(models.write_config(tmp_path, name, config))
    part = tmp_path / "tried"
    Tried(name, 32, 24, cut).write(part)
    try_export(part)
    return Tried.read(part)


def test_a_configuration_is_exported_and_measured(tmp_path: Path) -> None:
    content = models.vit()
    found = tried(tmp_path, "tiny-tried", content)
    assert found.failure is None
    assert found.outcome == "exported, cut"
    assert found.text_form == "packed"
    assert found.parameters is not None
    assert found.parameters > 49408 * 32
    assert min(found.image or 0, found.text or 0) >= 0.99999


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (models.hf_text("nobody/has-such-an-one"), "no stand-in here for the text encoder"),
        ({**models.vit(), "vision_cfg": {**models.VIT, "image_size": [32, 64]}}, "only square"),
    ],
)
def test_a_refusal_is_a_sentence(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    found = tried(tmp_path, "tiny-refused", config)
    assert why in found.outcome
    assert found.text_form == "–"  # noqa: RUF001 (an en dash, for an empty cell)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("gigabytes", "seconds", "why"),
    [(0.001, 600, "takes over 0.001 GB of memory"), (1000, 0.01, "takes over 0.01 s")],
)
def test_a_bound_stops_a_try(gigabytes: float, seconds: float, why: str) -> None:
    found = try_bounded("ViT-bigG-14", gigabytes, seconds, cut=False)
    assert found.outcome.startswith(f"stopped: it {why}; give more by --")
    assert (found.image_size, found.context_length) == (224, 77)


def test_only_blocks_that_repeat_are_removed() -> None:
    stages = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 5))
    equal = nn.ModuleList(nn.Linear(3, 3) for _ in range(6))
    first = nn.Sequential(nn.Linear(2, 3), *(nn.Linear(3, 3) for _ in range(4)))
    model = nn.ModuleList([stages, equal, first])
    assert shorten(model) == 2
    assert [len(row) for row in (stages, equal, first)] == [3, BLOCKS, BLOCKS]
    assert stages(torch.ones(1, 2)).shape == (1, 5)


def test_stages_are_cut_before_they_take_memory() -> None:
    shorten_config({}, None)
    assert [len(stage.blocks) for stage in timm.create_model("convnext_tiny").stages] == [2] * 4
    assert timm.create_model("resnet10t").num_features  # takes neither option


def test_the_page_lists_every_configuration_and_no_traceback() -> None:
    text = (ROOT / PAGE).read_text()
    listed = re.findall(r"^\| `(.+?)` \| (.+?) \|", text, re.MULTILINE)
    own = Path(open_clip.__file__).with_name("model_configs").glob("*.json")
    assert {name for name, _ in listed} == {path.stem for path in own}
    assert not re.search(r"Traceback|File \"|\x1b|0x[0-9a-f]{6}", text)
    outcomes = [outcome for _, outcome in listed]
    exported = sum(outcome.startswith("exported") for outcome in outcomes)
    tried = len(outcomes) - outcomes.count("not tried")
    assert f"of {len(listed)}, {tried} were tried, and {exported} of these" in text
    for outcome in outcomes:  # whatever is refused has a remedy
        assert re.fullmatch("exported(, cut)?|not tried|.+; .+", outcome)
    # As the program writes it, but for the rows.
    written = page({}).partition("\n| ")[0]
    number = re.compile(r"\d+")
    assert number.sub("#", text.partition("\n| ")[0]) == number.sub("#", written)
