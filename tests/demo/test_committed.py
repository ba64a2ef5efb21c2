"""The committed entries of the demo model come from the committed checkpoint."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from export.demo.model import CHECKPOINT, CONFIG
from export.demo.scenes import draw_scenes
from export.publish.pbtxt import ANY_LENGTH, Serving, image_config, text_config
from export.source.checkpoint import Checkpoint, load_checkpoint
from export.source.fingerprint import fingerprint
from export.source.tokenizer import write_tokenizer
from gateway.models.manifest import PIXELS, TOKEN_IDS, Manifest, file_sha256, read_repository
from tests.conftest import REPOSITORY, SAMPLES
from tests.export.graphs import assert_runs_on_old_runtimes

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_repository(REPOSITORY)["demo"]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(str(CONFIG), str(CHECKPOINT), None)


def encoder(manifest: Manifest, name: str) -> onnxruntime.InferenceSession:
    path = REPOSITORY / name / str(manifest.version) / "model.onnx"
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_files_are_those_that_were_published(manifest: Manifest) -> None:
    assert manifest.files
    for name, digest in manifest.files.items():
        assert file_sha256(REPOSITORY / name) == digest
    found = {
        path.relative_to(REPOSITORY).as_posix()
        for path in REPOSITORY.rglob("demo.*/*/*")
        if path.is_file()
    }
    assert found <= set(manifest.files)


def test_fingerprint_is_the_checkpoints(
    manifest: Manifest, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    tokenizer = write_tokenizer(checkpoint.tokenizer, tmp_path / manifest.tokenizer.file)
    assert tokenizer == manifest.tokenizer
    assert manifest.preprocessing == checkpoint.preprocessing
    assert manifest.fingerprint == fingerprint(
        checkpoint.model, checkpoint.preprocessing, tokenizer, manifest.precision
    )
    assert manifest.logit_scale == pytest.approx(checkpoint.logit_scale)
    with torch.no_grad():
        next(checkpoint.model.visual.parameters()).view(-1)[0] += 0.001
    assert manifest.fingerprint != fingerprint(
        checkpoint.model, checkpoint.preprocessing, tokenizer, manifest.precision
    )


def test_image_encoder_is_the_checkpoints(manifest: Manifest) -> None:
    truth = load_checkpoint(str(CONFIG), str(CHECKPOINT), None)
    images = [scene.image for scene in draw_scenes(20, seed=31)]
    pixels = np.stack([np.asarray(image, dtype=np.uint8) for image in images])
    with torch.inference_mode():
        batch = torch.stack([truth.transform(image) for image in images])
        expected = truth.model.encode_image(batch, normalize=True).numpy()
    [found] = encoder(manifest, manifest.triton.image.name).run(None, {PIXELS: pixels})
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_text_encoders_are_the_checkpoints(manifest: Manifest) -> None:
    truth = load_checkpoint(str(CONFIG), str(CHECKPOINT), None)
    ids = truth.tokenizer(["a photo of a red circle.", "blue", "a large green star"])
    with torch.inference_mode():
        expected = truth.model.encode_text(ids, normalize=True).numpy()
    for text in manifest.triton.text:
        given = {TOKEN_IDS: ids[:, : text.length].to(torch.int32).numpy()}
        [found] = encoder(manifest, text.name).run(None, given)
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_old_onnx_runtimes_can_run_it(manifest: Manifest) -> None:
    for name in (manifest.triton.image.name, *(text.name for text in manifest.triton.text)):
        assert_runs_on_old_runtimes(REPOSITORY / name / str(manifest.version) / "model.onnx")


def test_configurations_are_those_of_an_export(manifest: Manifest) -> None:
    size = manifest.preprocessing.image_size
    image, [text] = manifest.triton.image, manifest.triton.text
    serving = Serving(image.max_batch)
    made = {
        image.name: image_config(image.name, size, manifest.embedding_size, serving),
        text.name: text_config(text.name, ANY_LENGTH, manifest.embedding_size, serving),
    }
    for name, config in made.items():
        assert (REPOSITORY / name / "config.pbtxt").read_text() == config


def test_it_all_is_small() -> None:
    entries = [p for p in REPOSITORY.rglob("demo.*") if p.is_file()]
    entries += [p for p in REPOSITORY.rglob("demo.*/*/*") if p.is_file()]
    sizes = [path.stat().st_size for path in {*entries, CHECKPOINT, *SAMPLES.iterdir()}]
    assert sum(sizes) < 24 * MEGABYTE
