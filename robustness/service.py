"""A model behind the API of a running service, and the preprocessing that it expects."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from openclip_triton.client import Client
from openclip_triton.values import Content, Model, Vectors

from benchmarks.systems.published import Manifest
from benchmarks.traffic.errors import BenchmarkError
from gateway.errors import RequestError
from gateway.images.preprocess import ImageLimits, preprocess
from gateway.models.manifest import Preprocessing
from robustness.pictures import png

Pixels = NDArray[np.uint8]  # [S, S, 3]
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and std of RGB

LIMITS = ImageLimits()
TRIED = 8  # pictures used to find the preprocessing
NORMALISATIONS: dict[str, Statistics] = {
    "OpenAI's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "one half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A served model, with its preprocessing."""

    client: Client
    model: Model
    rules: Preprocessing
    fast: Client | None = None  # of a gateway with GATEWAY_PREPROCESSING=fast

    def embed(self, items: Sequence[Content]) -> Vectors:
        """See `embed`."""
        return embed(self.client, self.model, items)

    def pixels(self, pixels: Sequence[Pixels]) -> Vectors:
        """Embed pixels of the model's own size, which the service does not change."""
        return self.embed([png(each) for each in pixels])


def embed(client: Client, model: Model, items: Sequence[Content]) -> Vectors:
    """Embed items, waiting for a busy service: float32 [n, D].

    Raises:
        ClientError: The service refused an item, or did not answer.
    """
    vectors = []
    for result in client.stream(enumerate(items), model=model.id, ordered=True):
        if result.error is not None:
            raise result.error
        vectors.append(result.vector)
    return np.array(vectors, np.float32)


def find(client: Client, name: str | None) -> Model:
    """Find a model of a service, or its default.

    Raises:
        BenchmarkError: There is no such model, or no default.
        ClientError: The service did not answer.
    """
    models = client.models()
    for model in models:
        if model.is_default if name is None else name in (model.id, *model.aliases):
            return model
    known = ", ".join(each.id for each in models)
    raise BenchmarkError(f"choose a model with --model; there are: {known}")


def prepare(data: bytes, rules: Preprocessing) -> Pixels:
    """A picture's pixels for a model with this preprocessing: uint8 [S, S, 3].

    Raises:
        BenchmarkError: It is not a picture.
    """
    try:
        return preprocess(data, rules, LIMITS)
    except RequestError as error:
        raise BenchmarkError(f"a picture cannot be used: {error}") from error


def preprocessing(
    client: Client, model: Model, published: Iterable[Manifest], files: Sequence[bytes]
) -> Preprocessing:
    """The preprocessing that a served model expects.

    It comes from the manifest with the model's fingerprint. If no published model has it, it is the
    one whose pixels get the same vectors as the files; mean and std, which cannot be observed from
    outside, are then assumed to be 0.5 for SigLIP models, and OpenAI's for others.

    Raises:
        BenchmarkError: A file is not a picture.
        ClientError: The service did not answer.
    """
    for manifest in published:
        if manifest["fingerprint"] == model.fingerprint:
            return Preprocessing(**manifest["preprocessing"])
    mean, std = NORMALISATIONS["one half" if model.scoring == "sigmoid" else "OpenAI's"]
    modes, filters = (
        get_args(Preprocessing.model_fields[name].annotation)
        for name in ("resize_mode", "interpolation")
    )
    tried = [
        Preprocessing(
            image_size=model.image_size, mean=mean, std=std, resize_mode=mode, interpolation=name
        )
        for mode in modes
        for name in filters
    ]
    files = files[:TRIED]
    own = embed(client, model, files)
    pixels = [png(prepare(data, rules)) for rules in tried for data in files]
    made = embed(client, model, pixels).reshape(len(tried), *own.shape)
    return tried[int((made * own).sum(axis=2).mean(axis=1).argmax())]
