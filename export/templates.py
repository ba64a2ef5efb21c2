"""`python -m export.templates`: writes OpenCLIP's own template sets as a file for the gateway.

The sets come from `open_clip.zero_shot_metadata`, where a template is a function of a label.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

PLACEHOLDER = "{}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m export.templates", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="YAML file to write")
    given = parser.parse_args(arguments)
    try:
        given.output.write_text(yaml.safe_dump({"template_sets": template_sets()}, width=120))
    except OSError as error:
        print(f"error: {given.output}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def template_sets() -> dict[str, list[str]]:
    """OpenCLIP's templates by set, with `{}` in place of the label."""
    from open_clip import zero_shot_metadata

    sets: dict[str, Sequence[Callable[[str], str]]] = {
        "openai_imagenet": zero_shot_metadata.OPENAI_IMAGENET_TEMPLATES,
        "simple_imagenet": zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES,
    }
    return {name: [each(PLACEHOLDER) for each in templates] for name, templates in sets.items()}


if __name__ == "__main__":
    sys.exit(main())
