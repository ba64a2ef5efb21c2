from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.systems.direct import batch_of, measure_triton, padded_lengths, text_requests
from benchmarks.systems.published import Manifest
from benchmarks.traffic.captions import Captions, tokens
from server.launcher import TritonServer
from tests.benchmarks.forms import CONTEXT, DEMO, FORMS, PACKED, write_form


def of_77_tokens(manifest: Manifest) -> Manifest:
    texts = [tower | {"length": 77} for tower in manifest["triton"]["text"][-1:]]
    return manifest | {"triton": manifest["triton"] | {"text": texts}}


def test_a_packed_tower_gets_a_few_lengths_that_triton_can_join(tmp_path: Path) -> None:
    manifests = {form: write_form(tmp_path / form, form) for form in FORMS}
    packed = manifests.pop(PACKED)
    assert padded_lengths(packed) == [CONTEXT]
    assert padded_lengths(of_77_tokens(packed)) == [32, 64, 77]
    [fixed] = manifests.values()
    assert padded_lengths(fixed) == [tower["length"] for tower in fixed["triton"]["text"]]


@pytest.mark.parametrize("form", FORMS)
def test_every_request_goes_to_a_tower_that_takes_it(tmp_path: Path, form: str) -> None:
    manifest = write_form(tmp_path / form, form)
    longest = {tower["name"]: tower["length"] for tower in manifest["triton"]["text"]}
    for caption, request in zip(Captions(), islice(text_requests(manifest), 300), strict=False):
        ids = np.frombuffer(request.body, np.int32)
        assert len(ids) == longest[request.path]
        end = min(tokens(caption), CONTEXT)
        assert int(ids.argmax()) == end - 1
        assert not ids[end:].any()


def test_a_batch_is_padded_to_its_longest_caption() -> None:
    assert batch_of(DEMO, [7, 12, 9]).shape == (3, 12)
    ids = batch_of(DEMO, [7, 12, 9], length=16)
    assert ids.shape == (3, 16)
    assert ids.dtype == np.int32
    assert ids.argmax(axis=1).tolist() == [6, 11, 8]


def test_triton_answers_straight(triton: TritonServer) -> None:
    for kind in ("image", "text"):
        measured = measure_triton(triton.addresses.grpc, DEMO, kind, 4, 0.2)
        assert not measured.errors
        assert measured.per_second > 0
