"""`--cut`: leaves out the blocks of an encoder that repeat others."""

import contextlib
import json
from pathlib import Path
from typing import Any

import timm
from torch import nn

BLOCKS = 2  # that --cut leaves of each row of equal blocks: of a stage, the first differs
STAGES = 4  # of timm's ConvNeXt and Swin
_LAYERS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers")


def shorten_config(config: dict[str, Any], text_config: Path | None) -> None:
    """Leave most blocks out before they take memory; `shorten` removes the rest."""
    for part in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        if isinstance(config.get(part, {}).get("layers"), int):
            config[part]["layers"] = BLOCKS
    if text_config is not None:
        file = text_config / "config.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {key: BLOCKS for key in _LAYERS if key in content}))
    create = timm.create_model

    def create_short(*given: Any, **options: Any) -> Any:  # noqa: ANN401 (as timm's)
        for fewer in ({"depth": BLOCKS}, {"depths": (BLOCKS,) * STAGES}):
            with contextlib.suppress(TypeError):  # this kind of encoder does not take it
                return create(*given, **fewer, **options)
        return create(*given, **options)

    timm.create_model = create_short


def shorten(model: nn.Module) -> int:
    """Remove from every row of blocks those that repeat the one before; return the number of rows.

    The first blocks stay, since the first of a stage may differ from the others.
    """
    rows = 0
    for row in list(model.modules()):
        if isinstance(row, nn.Sequential | nn.ModuleList):
            kinds = [repr(block) for block in row]
            repeated = [i for i in range(BLOCKS, len(kinds)) if kinds[i] == kinds[i - 1]]
            for index in reversed(repeated):
                del row[index]
            rows += bool(repeated)
    return rows
