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
    """The gateway's settings, read once at start. Help and README show their docstrings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore",
        use_attribute_docstrings=True,
    )  # fmt: skip

    host: str = "127.0.0.1"
    """Address to listen on."""
    hosts: tuple[Host, ...] = ()
    """Host names, as a JSON list, that a gateway without keys answers to, besides localhost;
    *.example.org is every name below it; empty: none if GATEWAY_HOST is a loopback address, else
    every one."""
    cors_origins: tuple[Origin, ...] = ()
    """Origins, as a JSON list such as `["https://app.example.org"]`, whose pages may use the REST
    API from a browser; empty: none may."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Addresses or networks of proxies, as a JSON list, whose `X-Forwarded-For` and
    `X-Forwarded-Proto` are believed; empty: nobody's are."""
    http_port: PortOrZero = 8080
    """Port of the REST API."""
    grpc_port: PortOrZero = 8081
    """Port of the gRPC API."""
    metrics_port: Port | None = None
    """Port of /metrics alone, plain HTTP without keys; unset: /metrics is on the REST port, and
    needs a key where there are keys."""
    metrics_host: str | None = None
    """Address that the metrics port listens on; unset: GATEWAY_HOST."""
    triton_address: Addresses = "127.0.0.1:8001"
    """host:port of Triton's gRPC; several with commas between, or a name that stands for
    several."""
    triton_secret_file: Path | None = None
    """File of the secret that Triton asks of whoever loads models, read at each load; unset: there
    is none, and a Triton that asks for one loads no new versions."""
    triton_calls: Annotated[int, Field(ge=1, le=1024)] = 2
    """Calls of one encoder under way at a time, for each Triton; what comes meanwhile is joined
    into the next. 1 is best for a CPU, and what `make run` takes."""
    triton_verify_s: Seconds = 5.0
    """Seconds between checks of every encoder: by its golden vector, or, while nobody uses it, by
    the count of rows that Triton has run since it loaded it."""
    triton_unload_s: SecondsOrZero = 300.0
    """Seconds without use after which Triton unloads a version of a model, or a model, that the
    gateway served before; 0: it keeps them."""
    model_idle_s: Annotated[float, Field(ge=0, le=604_800)] = 0.0
    """Seconds without a request, to any gateway, after which Triton unloads an encoder; a request
    has it loaded again, and needs `GATEWAY_TRITON_SECRET_FILE` for it; 0: all stay loaded."""
    model_wake: Literal["wait", "refuse"] = "wait"
    """What a request does whose model `GATEWAY_MODEL_IDLE_S` had unloaded: wait until it is loaded,
    or refuse: 503 with `retry-after`, while it is being loaded."""
    model_repository: Path = Path("model_repository")
    """Folder of the published models, the same as Triton's."""
    models: tuple[str, ...] = ()
    """Ids of the models to serve, as a JSON list; empty serves all."""
    default_model: str | None = None
    """Model of requests that name none; unset: the one that is served."""
    ready_all: bool = False
    """Whether `/readyz` waits for every model; else it answers 200 while the default one, or where
    there is none any, gives right answers."""
    model_aliases: dict[str, str] = {}
    """Other names of served models, as a JSON object: name -> id."""
    fastest_of: FastestOf | None = None
    """A model, as a JSON object such as `{"model": "ViT-B-32", "pretrained": "openai", "precision":
    "fp32,int8"}`, whose name becomes an alias of its fastest variant, in these precisions, that
    passed its gate; requests that name no model are for it too. Chosen once, at start; unset:
    none."""
    label_sets: Path | None = None
    """Folder of label sets (*.yaml), encoded at start."""
    template_sets: Path | None = None
    """YAML file of template sets, beside the built-in ones."""
    text_cache_bytes: CountOrZero = 32 * 2**20
    """Bytes of vectors of texts and labels kept for those who ask again; 0: none."""
    request_timeout_s: Seconds = 30.0
    """Seconds after which a request is given up with 504."""
    drain_s: SecondsOrZero = 30.0
    """Seconds that requests under way get to end when the gateway is stopped."""
    reload_s: SecondsOrZero = 1.0
    """Seconds between looks at the manifests for new versions of models; 0: only on SIGHUP and
    `POST /v1/admin/reload`."""
    workers: Processes = 1
    """Processes that share both ports."""
    decode_threads: Processes | None = None
    """Threads of a process that decode images and tokenize; unset: one per core, shared among the
    processes. Requests with much text have one thread more."""
    decode_processes: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes (for each of the gateway's) that decode images, so that a crash in a codec costs
    one image; 0: threads, which take less memory and CPU."""
    decode_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Seconds after which a decoder process that has not answered is replaced."""
    exif_orientation: bool = False
    """Turn images upright as their EXIF says; OpenCLIP does not."""
    preprocessing: Literal["exact", "fast"] = "exact"
    """exact: OpenCLIP's pixels bit for bit; fast: scaled JPEG decoding and SIMD resizing, with
    vectors that differ a little."""
    jpeg_draft: bool = False
    """The old name of `GATEWAY_PREPROCESSING=fast`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """debug, info (a line for each request), warning or error."""
    log_format: Literal["json", "console"] = "console"
    """json, or console for people."""
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s]")] | None = None
    """Where OpenTelemetry traces are sent, OTLP over gRPC, such as `http://collector:4317`; unset:
    there are none."""
    max_connections: Count = 2048
    """REST connections of a process; beyond, the one that has waited longest for its client is
    ended."""
    head_timeout_s: Seconds = 10.0
    """Seconds that the head of a REST request may take to arrive; beyond, 408."""
    min_rate: CountOrZero = 16 * 2**10
    """Bytes a second, over 10 seconds, at which the body of a REST request must arrive (else 408),
    and its answer be read (else the connection ends); 0: any."""
    max_inflight: Count = 256
    """Requests worked on at a time; those beyond are answered 429."""
    max_inflight_items: Count = 4096
    """Texts and images worked on at a time, a stream counting as its whole window; beyond, 429."""
    max_inflight_bytes: Count = 384 * 2**20
    """Bytes of a process's memory that requests may take at a time, as they arrive: a body up to
    seven times its size, images their pixels; beyond, 429."""
    client_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """The part of requests, items and bytes in flight that one client (an API key, or without keys
    an address) may hold while others hold some; alone, it leaves as much free. 1: it may hold
    all."""
    max_wait_s: Seconds = 10.0
    """Seconds that a request may be expected to wait for those before it; beyond, 429."""
    stream_idle_s: Annotated[float, Field(gt=0, le=86400)] = 300.0
    """Seconds after which a gRPC stream that sends nothing, or does not read its results, is
    ended."""
    stream_window: Annotated[int, Field(ge=1, le=4096)] = 128
    """Items of one gRPC stream worked on at a time; no more are read till then."""
    max_body_bytes: Annotated[int, Field(ge=1, le=2**30)] = 48 * 2**20
    """Bytes of one request's body; beyond, 413."""
    max_items: Count = 2048
    """Texts and images in one request; beyond, 413."""
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
    """Pixels that resizing an image's short side may make, before the crop."""
    max_decode_bytes: Count = 256 * 2**20
    """Bytes that decoding may take, of all images at a time; one image may take twice as much,
    while no other is decoded."""
    batch_dir: Path | None = None
    """Folder of the files and batches of `/v1/files` and `/v1/batches`, on a disk of this machine
    and of this service alone; unset: they are off."""
    batch_max_bytes: Count = 4 * 2**30
    """Bytes of all files in that folder; beyond, 413, and a batch fails."""
    batch_max_files: Count = 1_000
    """Files, and batches, that one API key, or everybody where there are none, may have there."""
    batch_max_lines: Count = 50_000
    """Lines of one batch."""
    batch_keep_s: Annotated[int, Field(ge=3600, le=31_536_000)] = 2_592_000
    """Seconds after which files and batches are deleted, where a client does not ask for less or
    more for its files."""
    api_keys_file: Path | None = None
    """YAML file of the SHA-256 digests and quotas of API keys, read again when it changes; unset:
    nobody needs a key."""
    tls_cert: Path | None = None
    """PEM file of the certificate, with its chain, for both protocols, read again when it changes;
    unset: plain text."""
    tls_key: Path | None = None
    """PEM file of the certificate's key, not encrypted, read again when it changes."""
    tls_client_ca: Path | None = None
    """PEM file of authorities, read again when it changes; clients must show a certificate of one
    of them."""
    fetch_urls: bool = False
    """Whether images may be given as http(s) URLs."""
    fetch_hosts: tuple[Host, ...] = ()
    """Hosts that are fetched from, as a JSON list; *.example.org is every name below it; empty:
    every host."""
    fetch_ports: tuple[Port, ...] = ()
    """Ports that are fetched from, as a JSON list; empty: 80 and 443."""
    fetch_private: bool = False
    """Whether private and loopback addresses may be fetched from as well."""
    fetch_timeout_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    """Seconds to fetch one image in, redirects included."""
    fetch_max_redirects: Annotated[int, Field(ge=0, le=20)] = 3
    """Redirects that are followed for one image."""
    fetch_concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    """Images that one process fetches at a time; a request alone, half of them."""

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
