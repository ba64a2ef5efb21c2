"""Settings that cannot be, each named in one line."""

import os

import pytest

from gateway.process.start import StartError, load_settings
from gateway.settings import LARGEST


def told(monkeypatch: pytest.MonkeyPatch, **settings: object) -> str:
    """What is said of these."""
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(f"GATEWAY_{name.upper()}", str(value))
    with pytest.raises(StartError) as refused:
        load_settings()
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("models", "demo", 'must be JSON, such as ["a", "b"]'),
        ("model_aliases", "x", 'must be JSON, such as {"a": "b"}'),
        ("fetch_hosts", "example.org", 'must be JSON, such as ["a", "b"]'),
        ("cors_origins", "*", 'must be JSON, such as ["https://a", "https://b"]'),
        (
            "cors_origins",
            '["https://a", "http://a:80"]',
            "http://a:80: browsers leave out the port",
        ),
        ("fetch_ports", "80,443", "must be JSON, such as [1, 2]"),
        ("fastest_of", "ViT-B-32", "should be a valid dictionary"),
        ("workers", "many", "should be a valid integer"),
        ("workers", 0, "greater than or equal to 1"),
        ("max_items", LARGEST + 1, "less than or equal to"),
        ("max_body_bytes", 2**31, "less than or equal to"),
        ("triton_address", "127.0.0.1", "should match"),
        ("triton_address", "127.0.0.1:99999", "127.0.0.1:99999: a port is a number from 1 to"),
        ("triton_address", "127.0.0.1:0", "a port is a number"),
        ("triton_address", "127.0.0.1:٣", "should match"),
        ("log_level", "loud", "should be 'debug'"),
        ("sorkers", 2, "no such setting; GATEWAY_WORKERS?"),
    ],
)
def test_it_is_named_with_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, says: str
) -> None:
    message = told(monkeypatch, **{name: value})
    assert message.startswith(f"GATEWAY_{name.upper()}: ")
    assert says in message
    assert "\n" not in message


def test_a_field_of_a_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    message = told(monkeypatch, fastest_of='{"model": "a", "precision": "fp32 int8"}')
    assert message.startswith("GATEWAY_FASTEST_OF[precision]: String should match pattern")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fetch_ports", "[443, 0]"),
        ("hosts", '["a", "http://b"]'),
        ("cors_origins", '["https://a", "*"]'),
        ("cors_origins", '["https://a:8443", "null"]'),
        ("cors_origins", '["http://[::1]:3000", "https://*.example.org"]'),
        ("cors_origins", '["chrome-extension://abc", "https://a/"]'),
        ("cors_origins", '["http://a:443", "https://A"]'),
        ("trusted_proxies", '["10.0.0.0/8", "proxy"]'),
        ("fetch_hosts", '["example.org", "http://example.org"]'),
    ],
)
def test_one_of_a_list_is_named_by_its_place(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert told(monkeypatch, **{name: value}).startswith(f"GATEWAY_{name.upper()}[1]: ")


@pytest.mark.parametrize("other", ["http_port", "grpc_port"])
def test_the_metrics_have_a_port_of_their_own(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    said = told(monkeypatch, metrics_port=9000, **{other: 9000})
    assert said == "GATEWAY_METRICS_PORT 9000 is one of the other ports"
    said = told(monkeypatch, metrics_host="127.0.0.1")
    assert said == "GATEWAY_METRICS_HOST is set, so GATEWAY_METRICS_PORT must be"


@pytest.mark.parametrize(
    ("settings", "fast"),
    [({}, False), ({"preprocessing": "exact"}, False), ({"preprocessing": "fast"}, True),
     ({"jpeg_draft": "true"}, True)],
)  # fmt: skip
def test_the_old_name_of_fast_preprocessing(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], fast: bool
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"GATEWAY_{name.upper()}", value)
    assert load_settings().fast() == fast
