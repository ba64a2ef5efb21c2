from pathlib import Path

import open_clip
import pytest

from export.templates import main
from gateway.pipeline.label_sets import read_label_sets


def test_openclips_templates_are_written_for_the_gateway(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    assert main(["--output", str(path)]) == 0
    sets = read_label_sets(None, path)
    templates = sets.templates("openai_imagenet")
    assert len(templates) == 80
    expected = [each("tench") for each in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert [template.replace("{}", "tench") for template in templates] == expected
    assert len(sets.templates("simple_imagenet")) == 7


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path / "none" / "x.yaml")]) == 1
    assert "x.yaml" in capsys.readouterr().err
