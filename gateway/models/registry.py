"""The served models, by id and by alias."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import MalformedRequest, UnknownModel, quoted
from gateway.models.files import read_file
from gateway.models.manifest import (
    MAX_CARD_BYTES,
    Manifest,
    ManifestError,
    Tokenizer,
    read_repository,
)
from gateway.models.tokenizer import TextTokenizer, checked_file


@dataclass(frozen=True, slots=True)
class Model:
    """A served model: its manifest, its tokenizer and the file of its card."""

    manifest: Manifest
    tokenizer: TextTokenizer
    card: Path | None = None

    @classmethod
    def load(cls, manifest: Manifest, repository: Path, others: Iterable["Model"] = ()) -> "Model":
        """Read the model's tokenizer, or share that of another model.

        A tokenizer is shared if its SHA-256 and its rules are the same. Raises as `TextTokenizer`.
        """
        wanted = _rules(manifest)
        card = repository / manifest.card if manifest.card else None
        for other in others:
            if _rules(other.manifest) == wanted:
                checked_file(manifest.tokenizer, repository)
                return cls(manifest, other.tokenizer, card)
        return cls(manifest, TextTokenizer(manifest.tokenizer, repository), card)

    def read_card(self) -> str:
        """The model card, in Markdown.

        Raises:
            UnknownModel: The model has no card, or the card cannot be read.
        """
        if self.card is None:
            raise UnknownModel(f"{self.manifest.id}: exported without a card", param="model")
        try:
            return read_file(self.card, MAX_CARD_BYTES).decode()
        except (OSError, UnicodeDecodeError):
            raise UnknownModel(
                f"{self.manifest.id}: its card cannot be read", param="model"
            ) from None


def _rules(manifest: Manifest) -> Tokenizer:
    """A tokenizer's rules, without the name of its file."""
    return manifest.tokenizer.model_copy(update={"file": ""})


class Models:
    """Finds the model of a request.

    A model can be replaced as a whole at any time: a request keeps the model that it has found.
    """

    def __init__(
        self,
        served: Mapping[str, Model],
        aliases: Mapping[str, str] | None = None,
        default: str | None = None,
    ) -> None:
        """Serve models by id, with aliases for some of these ids.

        Requests without a model name go to the id `default`; if None, to the only served model.
        """
        self._served = dict(served)
        self._aliases = dict(aliases or {})
        self._default = default

    def __iter__(self) -> Iterator[Model]:
        return iter(self._served.values())

    def find(self, name: str | None) -> Model:
        """The model with this id or alias; without a name, the default one.

        Raises:
            UnknownModel: No model has this name, or no model is served at all.
            MalformedRequest: There is no name, and no default.
        """
        if not self._served:
            raise UnknownModel("no model is served at the moment", param="model")
        wanted = self._default_id() if name is None else name
        if wanted is None:
            raise MalformedRequest(f"model: name one of: {self._names()}", param="model")
        model = self._served.get(self._aliases.get(wanted, wanted))
        if model is None:
            raise UnknownModel(
                f"the model {quoted(wanted)} is not served; served are: {self._names()}",
                param="model",
            )
        return model

    def served(self, model_id: str) -> Model | None:
        """The model with this id, if it is served; aliases do not count."""
        return self._served.get(model_id)

    def aliases(self, model_id: str) -> list[str]:
        """The aliases of a model."""
        return sorted(name for name, each in self._aliases.items() if each == model_id)

    def is_default(self, model_id: str) -> bool:
        """Whether this is the model of requests that name none."""
        return model_id == self._default_id()

    def put(self, model: Model) -> None:
        """Serve a model, in place of the one with its id."""
        self._served = self._served | {model.manifest.id: model}

    def drop(self, model_id: str) -> None:
        """Stop serving a model."""
        self._served = {name: each for name, each in self._served.items() if name != model_id}

    def _default_id(self) -> str | None:
        if self._default is None and len(self._served) == 1:
            return next(iter(self._served))
        return self._default

    def _names(self) -> str:
        return ", ".join(sorted([*self._served, *self._aliases]))


@dataclass(frozen=True, slots=True)
class Selection:
    """The models of a repository to serve, and their aliases."""

    repository: Path
    ids: tuple[str, ...] = ()  # empty: all
    default: str | None = None
    aliases: Mapping[str, str] | None = None

    def load(self, known: Models | None = None) -> dict[str, Model]:
        """Read the models, by id; keep those of `known` whose manifests have not changed.

        Raises:
            ManifestError: The repository, a manifest or a tokenizer is wrong or missing.
        """
        manifests = read_repository(self.repository)
        wanted = self.ids or tuple(manifests)
        default = (self.default,) if self.default else ()
        for model_id in (*wanted, *default, *(self.aliases or {}).values()):
            if model_id not in manifests or model_id not in wanted:
                found = ", ".join(manifests)
                raise ManifestError(
                    f"{self.repository}: model {model_id!r} is not here; found: {found}"
                )
        loaded: dict[str, Model] = {}
        for model_id in wanted:
            before = known.served(model_id) if known else None
            if before is None or before.manifest != manifests[model_id]:
                others = [*loaded.values(), *(known or ())]
                before = Model.load(manifests[model_id], self.repository, others)
            loaded[model_id] = before
        return loaded
