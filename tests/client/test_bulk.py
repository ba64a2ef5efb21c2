"""Thousands of images through the real stack; fifty thousand are measured by hand."""

import itertools
from pathlib import Path

import pytest
from openclip_triton import Client

from server.launcher import TritonServer
from tests.client import bulk
from tests.conftest import free_port, run_gateway

pytestmark = pytest.mark.slow

COUNT = 5_000
MOST_GROWTH_MIB = 100


def test_every_id_is_answered_once_in_flat_memory(triton: TritonServer, tmp_path: Path) -> None:
    bad = bulk.choose_bad(COUNT, 0.05)
    items = list(bulk.generate(tmp_path, COUNT, bad))
    with run_gateway(triton_address=triton.addresses.grpc) as gateway:
        assert gateway.get("/readyz").is_success
        report = bulk.stream(gateway.grpc_address, gateway.process, items, len(bad))
    assert report.wrong(bad) == []
    assert len(report.failed) == 250
    assert report.peak - report.before < MOST_GROWTH_MIB, str(report)


def test_a_restart_of_the_gateway_loses_nothing(triton: TritonServer, tmp_path: Path) -> None:
    items = list(bulk.generate(tmp_path, 3_000, frozenset()))
    settings = {"triton_address": triton.addresses.grpc, "grpc_port": free_port()}
    with Client(f"127.0.0.1:{settings['grpc_port']}") as client:
        with run_gateway(**settings):
            results = client.stream(items)
            answered = [result.id for result in itertools.islice(results, 500)]
        with run_gateway(**settings):
            for result in results:
                assert result.error is None
                answered.append(result.id)
    assert sorted(answered) == list(range(3_000))
