"""Everything that can be set, from `GATEWAY_*` environment variables."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "GATEWAY_"  # of every environment variable that is a setting
LARGEST = 2**40  # of what is counted, in items or bytes: beyond, numbers do not fit everywhere

Host = Annotated[str, Field(pattern=r"^((\*\.)?[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+)$")]
Origin = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?$")
]
Addresses = Annotated[str, Field(pattern=r"^[^\s,:]+:[0-9]{1,5}(,[^\s,:]+:[0-9]{1,5})*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
PortOrZero = Annotated[int, Field(ge=0, le=65535)]
Processes = Annotated[int, Field(ge=1, le=256)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
SecondsOrZero = Annotated[float, Field(ge=0, le=3600)]


class FastestOf(BaseModel):
    """A model, and the precisions of which the fastest has its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str  # as `python -m export` takes it; empty: none
    pretrained: str = ""
    precision: Annotated[str, Field(pattern=r"^([a-z0-9]+(,[a-z0-9]+)*)?$")] = ""
    """With commas between; empty: fp32."""


class Settings(BaseSettings):
    """The gateway's settings, read once at start.

    `--help` and docs/configuration.md show their docstrings.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore",
        use_attribute_docstrings=True,
    )  # fmt: skip

    host: str = "127.0.0.1"
    """Address to listen on."""
    hosts: tuple[Host, ...] = ()
    """Host names, as a JSON list, that a gateway without keys answers to besides localhost;
    `*.example.org` matches every name below it. Empty: no others if `GATEWAY_HOST` is a loopback
    address, else every name."""
    cors_origins: tuple[Origin, ...] = ()
    """Origins, as a JSON list such as `["https://app.example.org"]`, whose pages may call the REST
    API from a browser. Empty: none."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Addresses or networks of proxies, as a JSON list, whose `X-Forwarded-For` and
    `X-Forwarded-Proto` headers are believed. Empty: none."""
    http_port: PortOrZero = 8080
    """Port of the REST API."""
    grpc_port: PortOrZero = 8081
    """Port of the gRPC API."""
    metrics_port: Port | None = None
    """Separate port for `/metrics`, plain HTTP without keys. Unset: `/metrics` is on the REST port
    and needs a key where keys are set."""
    metrics_host: str | None = None
    """Address that the metrics port listens on. Unset: `GATEWAY_HOST`."""
    triton_address: Addresses = "127.0.0.1:8001"
    """`host:port` of Triton's gRPC API; several separated by commas, or a DNS name that resolves to
    several."""
    triton_secret_file: Path | None = None
    """File with the secret that Triton requires for loading models, read at each load. Unset: no
    secret is sent, and a Triton that requires one loads no new versions."""
    triton_calls: Annotated[int, Field(ge=1, le=1024)] = 2
    """Concurrent calls of one encoder to each Triton; requests that arrive meanwhile are batched
    into the next call. 1 is best for a CPU, and is what `make run` sets."""
    triton_verify_s: Seconds = 5.0
    """Seconds between checks of every encoder: of its golden vector, or, while it is idle, of the
    number of rows that Triton has run since it loaded it."""
    triton_unload_s: SecondsOrZero = 300.0
    """Seconds after which Triton unloads a replaced version, or a removed model, that nobody uses.
    0: it stays loaded."""
    model_idle_s: Annotated[float, Field(ge=0, le=604_800)] = 0.0
    """Seconds without a request to any gateway after which Triton unloads an encoder; the next
    request loads it again. Needs `GATEWAY_TRITON_SECRET_FILE`. 0: encoders stay loaded."""
    model_wake: Literal["wait", "refuse"] = "wait"
    """What happens to a request for an encoder that `GATEWAY_MODEL_IDLE_S` unloaded. `wait`: it
    waits for the load. `refuse`: it gets 503 with `retry-after` while the encoder loads."""
    model_repository: Path = Path("model_repository")
    """Folder of the published models, the same as Triton's."""
    models: tuple[str, ...] = ()
    """Ids of the models to serve, as a JSON list. Empty: all."""
    default_model: str | None = None
    """Model for requests that name none. Unset: the only model, where one is served."""
    ready_all: bool = False
    """Whether `/readyz` waits for every model. False: it answers 200 once the default model gives
    right answers, or any model where there is no default."""
    model_aliases: dict[str, str] = {}
    """Other names for served models, as a JSON object: name -> id."""
    fastest_of: FastestOf | None = None
    """A model, as a JSON object such as `{"model": "ViT-B-32", "pretrained": "openai", "precision":
    "fp32,int8"}`. Its name becomes an alias, and the default model, for the fastest of its variants
    in these precisions that passed the gate. Chosen once, at start. Unset: none."""
    label_sets: Path | None = None
    """Folder of label sets (`*.yaml`), encoded at start."""
    template_sets: Path | None = None
    """YAML file of template sets, in addition to the built-in ones."""
    text_cache_bytes: CountOrZero = 32 * 2**20
    """Size of the cache of text and label vectors, in bytes. 0: no cache."""
    request_timeout_s: Seconds = 30.0
    """Seconds after which a request fails with 504."""
    drain_s: SecondsOrZero = 30.0
    """Seconds that running requests get to finish when the gateway stops."""
    reload_s: SecondsOrZero = 1.0
    """Seconds between checks of the manifests for new versions of models. 0: only on SIGHUP and
    `POST /v1/admin/reload`."""
    workers: Processes = 1
    """Number of processes that share both ports."""
    decode_threads: Processes | None = None
    """Threads of each process that decode images and tokenize; large texts get one thread more.
    Unset: one for each core, divided among the processes."""
    decode_processes: Annotated[int, Field(ge=0, le=256)] = 0
    """Number of image decoder processes for each gateway process, so that a crash in a codec costs
    one image. 0: threads decode, which takes less memory and CPU."""
    decode_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Seconds after which a decoder process that has not answered is replaced."""
    exif_orientation: bool = False
    """Whether images are turned upright as their EXIF data says. OpenCLIP does not do it."""
    preprocessing: Literal["exact", "fast"] = "exact"
    """`exact`: OpenCLIP's pixels bit for bit. `fast`: scaled JPEG decoding and SIMD resizing, with
    slightly different vectors."""
    jpeg_draft: bool = False
    """Deprecated name of `GATEWAY_PREPROCESSING=fast`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug`, `info` (one line for each request), `warning` or `error`."""
    log_format: Literal["json", "console"] = "console"
    """`console` for people, or `json`."""
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s]")] | None = None
    """Endpoint for OpenTelemetry traces, OTLP over gRPC, such as `http://collector:4317`. Unset: no
    traces."""
    max_connections: Count = 2048
    """REST connections of a process. Beyond, the connection that has waited longest for its client
    is closed."""
    head_timeout_s: Seconds = 10.0
    """Seconds that the head of a REST request may take to arrive. Beyond, 408."""
    min_rate: CountOrZero = 16 * 2**10
    """Minimum bytes a second, over 10 seconds, at which a client must send the body of a REST
    request (else 408) and read its answer (else the connection is closed). 0: no minimum."""
    max_inflight: Count = 256
    """Requests in flight. Beyond, 429."""
    max_inflight_items: Count = 4096
    """Texts and images in flight; a stream counts as its whole window. Beyond, 429."""
    max_inflight_bytes: Count = 384 * 2**20
    """Memory of a process, in bytes, that requests in flight may take; a body counts up to seven
    times its size, an image its pixels. Beyond, 429."""
    client_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of the requests, items and bytes in flight that one client (an API key, or an address
    where there are no keys) may hold while others hold some. Alone, it may hold all but one such
    share. 1: no limit for each client."""
    max_wait_s: Seconds = 10.0
    """Expected seconds in the queue beyond which a request is refused with 429."""
    stream_idle_s: Annotated[float, Field(gt=0, le=86400)] = 300.0
    """Seconds after which a gRPC stream that sends nothing, or does not read its results, is
    ended."""
    stream_window: Annotated[int, Field(ge=1, le=4096)] = 128
    """Items of one gRPC stream in flight; further ones are not read until some are answered."""
    max_body_bytes: Annotated[int, Field(ge=1, le=2**30)] = 48 * 2**20
    """Bytes of one request's body. Beyond, 413."""
    max_items: Count = 2048
    """Texts and images in one request. Beyond, 413."""
    max_labels: Count = 2_000
    """Labels in one zero-shot request."""
    max_prompts: Count = 20_000
    """Labels times templates in one zero-shot request."""
    max_text_characters: Count = 32_768
    """Characters of one text, label or template."""
    max_image_bytes: Annotated[int, Field(ge=1, le=2**30)] = 32 * 2**20
    """Bytes of one encoded image."""
    max_image_pixels: Annotated[int, Field(ge=1, le=89_000_000)] = 50_000_000
    """Pixels of one decoded image."""
    max_resized_pixels: Count = 4_000_000
    """Pixels of one image after its short side is resized, before the crop."""
    max_decode_bytes: Count = 256 * 2**20
    """Memory for decoding, in bytes, of all images together. A single image may take twice as much
    while no other is decoded."""
    batch_dir: Path | None = None
    """Folder for the files and batches of `/v1/files` and `/v1/batches`, on a local disk and used
    by this service alone. Unset: both are off."""
    batch_max_bytes: Count = 4 * 2**30
    """Bytes of all files in that folder. Beyond, an upload gets 413 and a batch fails."""
    batch_max_files: Count = 1_000
    """Files, and batches, of one API key, or of all clients where there are no keys."""
    batch_max_lines: Count = 50_000
    """Lines of one batch."""
    batch_keep_s: Annotated[int, Field(ge=3600, le=31_536_000)] = 2_592_000
    """Seconds after which files and batches are deleted, unless a client sets another time for its
    files."""
    api_keys_file: Path | None = None
    """YAML file with the SHA-256 digests and quotas of API keys, read again when it changes. Unset:
    no key is required."""
    tls_cert: Path | None = None
    """PEM file of the certificate with its chain, for both protocols, read again when it changes.
    Unset: plain text."""
    tls_key: Path | None = None
    """PEM file of the certificate's key, unencrypted, read again when it changes."""
    tls_client_ca: Path | None = None
    """PEM file of certificate authorities, read again when it changes; clients must present a
    certificate of one of them."""
    fetch_urls: bool = False
    """Whether images may be given as http(s) URLs."""
    fetch_hosts: tuple[Host, ...] = ()
    """Hosts to fetch from, as a JSON list; `*.example.org` matches every name below it. Empty:
    every host."""
    fetch_ports: tuple[Port, ...] = ()
    """Ports to fetch from, as a JSON list. Empty: 80 and 443."""
    fetch_private: bool = False
    """Whether private and loopback addresses may be fetched from as well."""
    fetch_timeout_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    """Seconds to fetch one image, redirects included."""
    fetch_max_redirects: Annotated[int, Field(ge=0, le=20)] = 3
    """Redirects to follow for one image."""
    fetch_concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    """Images that one process fetches at a time; one request may use half of them."""

    @field_validator("triton_address")
    @classmethod
    def _has_ports(cls, value: str) -> str:
        for address in value.split(","):
            if not 1 <= int(address.rpartition(":")[2]) <= 65_535:
                raise ValueError(f"{address}: a port is a number from 1 to 65535")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _as_browsers_send_them(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if re.fullmatch(r"http://.*:80|https://.*:443", origin):
                raise ValueError(f"{origin}: browsers leave out the port, which is the usual one")
        return value

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.metrics_port is None:
            if self.metrics_host is not None:
                raise ValueError("GATEWAY_METRICS_HOST is set, so GATEWAY_METRICS_PORT must be")
        elif self.metrics_port in (self.http_port, self.grpc_port):
            raise ValueError(f"GATEWAY_METRICS_PORT {self.metrics_port} is one of the other ports")
        return self

    def triton_addresses(self) -> tuple[str, ...]:
        """Where the Tritons are, each `host:port`."""
        return tuple(self.triton_address.split(","))

    def fast(self) -> bool:
        """Whether images are preprocessed the fast way."""
        return self.preprocessing == "fast" or self.jpeg_draft

    def threads(self) -> int:
        """How many threads one process decodes with, or waits for its decoder processes with."""
        own = self.decode_threads or max(1, (os.cpu_count() or 1) // self.workers)
        return max(own, self.decode_processes)
