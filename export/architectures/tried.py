"""The result of trying one configuration."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import open_clip

from export.report.tables import NONE


@dataclass(frozen=True, slots=True)
class Tried:
    """The outcome of one configuration.

    Attributes:
        name: OpenCLIP's.
        image_size: In pixels.
        context_length: In tokens.
        cut: Whether only `BLOCKS` blocks of each kind were tried.
        parameters: Of the whole model; None if it was not created.
        image: Lowest cosine of the image encoder to PyTorch; None if not measured.
        text: The same of the text encoder.
        lengths: Token lengths that text is served at; none where it is packed.
        failure: Why it was not exported.
    """

    name: str
    image_size: int
    context_length: int
    cut: bool = False
    parameters: int | None = None
    image: float | None = None
    text: float | None = None
    lengths: tuple[int, ...] = ()
    failure: str | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """Write as JSON, in one step: the process may be stopped at any time."""
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(asdict(self)))
        part.replace(path)

    @property
    def outcome(self) -> str:
        """Whether it was exported, or why not."""
        return self.failure or ("exported, cut" if self.cut else "exported")

    @property
    def text_form(self) -> str:
        """How text is served."""
        if self.failure is not None:
            return NONE
        return ("packed", "full length", "fixed lengths")[min(len(self.lengths), 2)]


def untried(name: str) -> Tried:
    """Make the entry of a configuration that was not tried."""
    config = open_clip.get_model_config(name)
    context = config["text_cfg"].get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    return Tried(name, config["vision_cfg"]["image_size"], context, failure="not tried")
