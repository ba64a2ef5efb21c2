"""Faults planted in a pipeline of PyTorch's own are recognised from the vectors that it makes."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from openclip_triton.client import Client
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from benchmarks.systems.published import manifests
from benchmarks.traffic.errors import BenchmarkError
from benchmarks.traffic.photos import photos
from gateway.images.preprocess import DecodeOptions, ImageLimits, preprocess
from gateway.models.manifest import Preprocessing
from robustness import drift, service
from robustness.service import NORMALISATIONS, Subject
from server.launcher import TritonServer
from tests.conftest import REPOSITORY, GatewayClient, GatewayFactory
from tests.openclip_reference import Floats, demo_reference

COUNT, SIDE = 12, 64
RULES = Preprocessing(**manifests(REPOSITORY)["demo"]["preprocessing"])
OWN = NORMALISATIONS["OpenAI's"]
BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR

Known = dict[str, Floats]
Tensor = Any  # float32 [3, S, S], from 0 to 1


@pytest.fixture(scope="module")
def known(
    api: GatewayClient, triton: TritonServer, start_gateway: GatewayFactory
) -> dict[str, Floats]:
    """The vectors of each fault, as the program makes them through the API."""
    with (
        Client(api.grpc_address) as client,
        start_gateway(triton_address=triton.addresses.grpc, preprocessing="fast") as fast,
        Client(fast.grpc_address) as quick,
    ):
        subject = Subject(client, service.find(client, "demo"), RULES, quick)
        return drift.vectors(subject, photos()[:COUNT])


def resized(size: int | list[int], mode: InterpolationMode) -> Callable[[Image.Image], Tensor]:
    """On Pillow's images, antialiased."""
    return lambda image: cropped(tv.to_tensor(tv.resize(image, size, mode)))


def sampled(mode: InterpolationMode) -> Callable[[Image.Image], Tensor]:
    """On tensors, as torchvision did by default before 0.17."""
    return lambda image: cropped(tv.resize(tv.to_tensor(image), SIDE, mode, antialias=False)).clamp(
        0, 1
    )


def cropped(pixels: Tensor) -> Tensor:
    return tv.center_crop(pixels, [SIDE, SIDE])


right = resized(SIDE, BICUBIC)
RESIZES: dict[str, Callable[[Image.Image], Tensor]] = {
    drift.NONE: right,
    "nearest": resized(SIDE, InterpolationMode.NEAREST),
    "bilinear without antialias": sampled(BILINEAR),
    "bicubic without antialias": sampled(BICUBIC),
    "bilinear": resized(SIDE, BILINEAR),
    "Lanczos": resized(SIDE, InterpolationMode.LANCZOS),
    "squashed, not cropped": resized([SIDE, SIDE], BICUBIC),
    "BGR": lambda image: right(image).flip(0),
}


def planted(fault: str, data: bytes) -> Tensor:
    """What the faulty pipeline gives its model: float32 [3, S, S], normalised."""
    image, statistics = Image.open(BytesIO(data)), OWN
    if fault == drift.FAST:
        pixels = preprocess(data, RULES, ImageLimits(), DecodeOptions(fast=True))
        return tv.normalize(tv.to_tensor(Image.fromarray(pixels)), *OWN)
    if fault == drift.SCALED:
        image.draft("RGB", (SIDE, SIDE))
    elif fault not in RESIZES:
        statistics = NORMALISATIONS[fault.removeprefix("mean and std: ")]
    return tv.normalize(RESIZES.get(fault, right)(image), *statistics)


def test_preprocessing_is_found_out_without_a_manifest(api: GatewayClient) -> None:
    with Client(api.grpc_address) as client:
        model = service.find(client, None)
        assert service.preprocessing(client, model, [], photos()[:COUNT]) == RULES


@pytest.fixture(scope="module")
def vectors(known: Known) -> Known:
    """The vectors of each faulty pipeline, whose model is PyTorch's."""
    model = demo_reference().model
    with torch.inference_mode():
        return {
            fault: model.encode_image(
                torch.stack([planted(fault, data) for data in photos()[:COUNT]]), normalize=True
            ).numpy()
            for fault in known
        }


def test_each_planted_fault_is_recognised(known: Known, vectors: Known) -> None:
    assert len(known) == 13
    for fault, made in vectors.items():
        cosines = (made * vectors[drift.NONE]).sum(axis=1)
        for seen in (made, cosines, np.median(cosines)):
            [first, *_] = drift.recognise(np.array(seen), known)
            assert (first.fault, seen.ndim) == (fault, seen.ndim)


def test_the_closest_is_named_where_vectors_are_longer(known: Known) -> None:
    [first, *_] = drift.recognise(7 * known["BGR"], known)
    assert first.fault == "BGR"
    assert first.distance == pytest.approx(0, abs=1e-6)


def test_a_vector_of_zeros_does_not_hide_the_fault(known: Known) -> None:
    seen = known["BGR"].copy()
    seen[0] = 0
    assert drift.recognise(seen, known)[0].fault == "BGR"


@pytest.mark.parametrize("shape", [(), (COUNT,), (COUNT, SIDE)])
def test_what_is_not_finite_explains_nothing(known: Known, shape: tuple[int, ...]) -> None:
    with pytest.raises(BenchmarkError, match="finite"):
        drift.recognise(np.full(shape, np.nan), known)


def test_other_pictures_are_refused(known: Known) -> None:
    with pytest.raises(BenchmarkError, match="this one is 11 x 64"):
        drift.recognise(known[drift.NONE][1:], known)
