"""The name of a model stands for its fastest variant that passed its gate on this machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.build import with_fastest
from gateway.models.manifest import Manifest, ManifestError
from gateway.models.variants import fastest, processor
from gateway.settings import FastestOf, Settings
from server.launcher import TritonServer
from tests.conftest import free_port, run_gateway
from tests.gateway.tritons import add_variant, copied
from tests.gateway.waiting import wait_until

FULL, HALF, SMALL = "ViT.own", "ViT.own.bf16", "ViT.own.int8"


def variants(tmp_path: Path, *, half: float | None, small: float | None) -> list[Manifest]:
    root = copied(tmp_path)
    speeds = {"int8": small, "fp32": None, "bf16": half}
    return [add_variant(root, "ViT", "own", each, speed) for each, speed in speeds.items()]


def failed(variant: Manifest) -> Manifest:
    return variant.model_copy(update={"gate": replace(variant.gate, failures=("too far off",))})


@pytest.mark.parametrize(
    ("half", "small", "best"),
    [(1.2, 1.6, SMALL), (1.7, 1.6, HALF), (0.9, 0.8, FULL), (1.2, None, SMALL)],
)
def test_the_fastest_or_the_first_where_one_was_not_measured(
    tmp_path: Path, half: float | None, small: float | None, best: str
) -> None:
    found, why = fastest(variants(tmp_path, half=half, small=small), processor())
    assert found.id == best
    assert ("not all measured" in why) is (small is None)
    assert (f"{max(half or 0, small or 0, 1):.2f} times as fast" in why) is (small is not None)


def test_speeds_of_another_processor_do_not_count(tmp_path: Path) -> None:
    given = variants(tmp_path, half=1.7, small=1.2)
    assert fastest(given, "another")[0].id == SMALL
    assert fastest(given, processor())[0].id == HALF


def test_one_that_failed_its_gate_is_left_out(tmp_path: Path) -> None:
    small, full, half = variants(tmp_path, half=1.2, small=1.6)
    assert fastest([failed(small), full, half], processor())[0].id == HALF
    assert fastest([failed(small), full], processor()) == (
        full,
        "the only one that passed its gate",
    )
    assert fastest([failed(small), failed(full)], processor())[0].id == SMALL


def test_the_processors_name(tmp_path: Path) -> None:
    listed = tmp_path / "cpuinfo"
    listed.write_text("processor : 0\nmodel name\t: Fast 9000 @ 3 GHz\nprocessor : 1\n")
    assert processor(listed) == "Fast 9000 @ 3 GHz"
    assert processor(tmp_path / "none") != ""


def settings(root: Path, precision: str, **more: object) -> Settings:
    wanted = FastestOf(model="ViT", pretrained="own", precision=precision)
    return Settings(model_repository=root, fastest_of=wanted).model_copy(update=more)


def test_what_the_settings_name_themselves_stays(tmp_path: Path) -> None:
    variants(tmp_path, half=1.2, small=1.6)
    root = tmp_path / "repository"
    made, why = with_fastest(settings(root, "fp32,int8"))
    assert (made.model_aliases, made.default_model, made.fastest_of) == (
        {"ViT": SMALL},
        SMALL,
        None,
    )
    assert why.startswith(f"ViT is {SMALL}, the fastest of {FULL}, {SMALL}: 1.60 times")
    own = {"default_model": "demo", "model_aliases": {"clip": "demo", "ViT": FULL}}
    made, _ = with_fastest(settings(root, "fp32,int8", **own))
    assert (made.model_aliases, made.default_model) == (own["model_aliases"], "demo")
    made, _ = with_fastest(settings(root, "fp32,int8", models=("demo", FULL)))
    assert made.model_aliases == {"ViT": FULL}
    made, why = with_fastest(settings(root, ""))
    assert made.model_aliases == {"ViT": FULL}


def test_no_alias_hides_a_model(tmp_path: Path) -> None:
    root = copied(tmp_path)
    wanted = FastestOf(model="demo", pretrained="checkpoint.safetensors")
    made, why = with_fastest(Settings(model_repository=root, fastest_of=wanted))
    assert (made.model_aliases, made.default_model) == ({}, "demo")
    assert why.startswith("requests that name no model are for demo, the only one")


def test_what_is_not_published_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"ViT with own is not published here in int8 or fp32"):
        with_fastest(settings(copied(tmp_path), "int8,fp32"))


def test_answers_name_what_was_chosen(triton: TritonServer, tmp_path: Path) -> None:
    variants(tmp_path, half=1.2, small=1.6)
    given = json.dumps({"model": "ViT", "pretrained": "own", "precision": "fp32,int8,bf16"})
    with run_gateway(
        triton_address=triton.addresses.grpc, model_repository=tmp_path / "repository",
        fastest_of=given,
    ) as client:  # fmt: skip
        wait_until(lambda: client.get("/readyz").status_code == 200)
        served = client.get("/v1/models/ViT").json()
        assert (served["id"], served["aliases"], served["default"]) == (SMALL, ["ViT"], True)
        for name in ({"model": "ViT"}, {}):
            answer = client.post("/v1/embeddings", json={"input": "a red circle", **name})
            assert answer.json()["model"] == SMALL
            assert answer.headers["x-model-fingerprint"] == served["fingerprint"]


@pytest.mark.slow
def test_every_worker_process_knows_what_was_chosen(tmp_path: Path) -> None:
    variants(tmp_path, half=1.2, small=1.6)
    given = json.dumps({"model": "ViT", "pretrained": "own", "precision": "fp32,int8,bf16"})
    with run_gateway(
        triton_address=f"127.0.0.1:{free_port()}", model_repository=tmp_path / "repository",
        workers=2, fastest_of=given,
    ) as client:  # fmt: skip
        for _ in range(8):  # connections, of either process
            served = client.get("/v1/models").json()["data"]
            assert [each["id"] for each in served if each["aliases"] == ["ViT"]] == [SMALL]
