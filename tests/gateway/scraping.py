"""What a gateway's metrics say."""

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

PREFIX = "openclip_"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(client: httpx.Client, headers: Mapping[str, str] | None = None) -> Samples:
    answer = client.get("/metrics", headers=headers)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum over every series with these labels."""
    wanted = labels.items()
    return sum(
        v for (n, found), v in samples.items() if n == PREFIX + name and wanted <= set(found)
    )
