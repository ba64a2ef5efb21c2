"""The served models, by their ids and by other names that clients know them under."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import MalformedRequest, UnknownModel
from gateway.manifest import Manifest
from gateway.text import TextTokenizer


@dataclass(frozen=True, slots=True)
class Model:
    """A served model: what is known of it, and its tokenizer."""

    manifest: Manifest
    tokenizer: TextTokenizer

    @classmethod
    def load(cls, manifest: Manifest, repository: Path) -> "Model":
        """Reads the model's tokenizer; see `TextTokenizer`."""
        return cls(manifest, TextTokenizer(manifest.tokenizer, repository))


class Models:
    """Finds the model that a request is for."""

    def __init__(
        self,
        served: Mapping[str, Model],
        aliases: Mapping[str, str] | None = None,
        default: str | None = None,
    ) -> None:
        """Takes the models by id.

        Args:
            served: The models by id.
            aliases: Other names of them; each leads to an id of `served`.
            default: The id for requests that name none; by default the only one that is served.
        """
        self._served = dict(served)
        self._aliases = dict(aliases or {})
        self._default = default or (next(iter(served)) if len(served) == 1 else None)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._served.values())

    def find(self, name: str | None) -> Model:
        """The model of this id or alias; without a name, the default one.

        Raises:
            UnknownModel: There is none of this name.
            MalformedRequest: No name was given, and there is no default.
        """
        if name is None and self._default is None:
            raise MalformedRequest(f"model: name one of: {self._names()}", param="model")
        wanted = self._default if name is None else name
        model = self._served.get(self._aliases.get(wanted or "", wanted or ""))
        if model is None:
            raise UnknownModel(
                f"the model {wanted!r} is not served; served are: {self._names()}", param="model"
            )
        return model

    def _names(self) -> str:
        return ", ".join(sorted([*self._served, *self._aliases]))
