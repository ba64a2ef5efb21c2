"""Label sets and template sets, from YAML files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gateway.admission.limits import RequestLimits
from gateway.errors import MalformedRequest, RequestError, UnknownLabelSet, quoted
from gateway.models.files import read_yaml
from gateway.pipeline.scoring import DEFAULT_TEMPLATES, PLACEHOLDER, Label, check_templates, prompts

SUFFIX = ".yaml"

# What is built in. OpenCLIP's own sets are written to a file by `python -m export.templates`.
TEMPLATE_SETS: Mapping[str, tuple[str, ...]] = {
    "plain": DEFAULT_TEMPLATES,
    "photo": ("a photo of a {}.",),
    "general": (
        "a photo of a {}.",
        "a picture of a {}.",
        "a close-up of a {}.",
        "a small {}.",
        "a large {}.",
        "a drawing of a {}.",
        "an image that shows a {}.",
    ),
}


class LabelSetError(Exception):
    """A file of labels or templates is missing or wrong; the message names it."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels and the templates that they stand in."""

    name: str  # empty where a request brings them
    labels: tuple[Label, ...]
    templates: tuple[str, ...]


_Name = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _LabelFile(_Strict):
    name: _Name
    names: Annotated[list[_Name], Field(min_length=1)] | None = None


class _LabelSetFile(_Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    labels: Annotated[list[_Name | _LabelFile], Field(min_length=1)]
    templates: Annotated[list[_Name], Field(min_length=1)] | _Name = list(DEFAULT_TEMPLATES)


class _TemplateSetsFile(_Strict):
    template_sets: dict[_Name, Annotated[list[_Name], Field(min_length=1)]]


class LabelSets:
    """Finds label sets and template sets by name."""

    def __init__(self, label_sets: Sequence[LabelSet] = ()) -> None:
        self.label_sets = {each.name: each for each in label_sets}
        self.template_sets = dict(TEMPLATE_SETS)

    def find(self, name: str) -> LabelSet:
        """The label set of this name. Raises UnknownLabelSet: there is none."""
        if name not in self.label_sets:
            known = ", ".join(sorted(self.label_sets)) or "none"
            raise UnknownLabelSet(
                f"no label set {quoted(name)}; there are: {known}", param="label_set"
            )
        return self.label_sets[name]

    def templates(
        self, given: Sequence[str] | str | None, limits: RequestLimits | None = None
    ) -> tuple[str, ...]:
        """The templates of a request: its own, within `limits`, or those of the set that it names.

        Raises:
            MalformedRequest: No set has this name, or a template does not hold `{}` exactly once.
            TooLarge: A template is longer than a text may be.
        """
        if given is None:
            return DEFAULT_TEMPLATES
        if isinstance(given, str):
            return self._named(given)
        if limits is not None:
            for index, template in enumerate(given):
                limits.text(template, f"templates[{index}]")
        check_templates(given)
        return tuple(given)

    def _named(self, name: str) -> tuple[str, ...]:
        if name not in self.template_sets:
            known = ", ".join(sorted(self.template_sets))
            hint = "; templates of your own go into a list" if PLACEHOLDER in name else ""
            raise MalformedRequest(
                f"templates: no template set {quoted(name)}; there are: {known}{hint}",
                param="templates",
            )
        return self.template_sets[name]


def read_label_sets(folder: Path | None, templates_file: Path | None) -> LabelSets:
    """Read every `*.yaml` of a folder, and a file of template sets to add to the built-in ones.

    Raises:
        LabelSetError: A file is missing, is not YAML, or says something that cannot be.
    """
    sets = LabelSets()
    if templates_file is not None:
        read = read_yaml(templates_file, _TemplateSetsFile, LabelSetError)
        for name, templates in read.template_sets.items():
            sets.template_sets[name] = _checked(templates_file, sets, templates)
    if folder is None:
        return sets
    if not folder.is_dir():
        raise LabelSetError(f"{folder}: no such folder of label sets")
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        file = read_yaml(path, _LabelSetFile, LabelSetError)
        if file.name in sets.label_sets:
            raise LabelSetError(f"{path}: another file has a label set {file.name!r} as well")
        labels = tuple(
            Label(each, (each,))
            if isinstance(each, str)
            else Label(each.name, tuple(each.names or [each.name]))
            for each in file.labels
        )
        sets.label_sets[file.name] = LabelSet(
            file.name, labels, _checked(path, sets, file.templates)
        )
    return sets


def check_label_sets(sets: LabelSets, limits: RequestLimits) -> None:
    """Refuse sets with a label that, in its longest template, is over the limit of a text."""
    for label_set in sets.label_sets.values():
        longest = max(label_set.templates, key=len)
        for index, label in enumerate(label_set.labels):
            for prompt in prompts(label, (longest,)):
                try:
                    limits.text(prompt, f"labels[{index}]")
                except RequestError as error:
                    raise LabelSetError(f"label set {label_set.name!r}: {error.message}") from error


def _checked(path: Path, sets: LabelSets, given: list[str] | str) -> tuple[str, ...]:
    try:
        return sets.templates(given)
    except MalformedRequest as error:
        raise LabelSetError(f"{path}: {error.message}") from error
