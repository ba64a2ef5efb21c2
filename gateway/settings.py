"""Everything that can be set, from `GATEWAY_*` environment variables."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, IPvAnyNetwork, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "GATEWAY_"  # of every environment variable that is a setting
LARGEST = 2**40  # of what is counted, in items or bytes: beyond, numbers do not fit everywhere

Host = Annotated[str, Field(pattern=r"^((\*\.)?[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+)$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """The gateway's settings, read once at start."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore"
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    hosts: tuple[Host, ...] = Field(
        default=(),
        description="Host names, as a JSON list, that a gateway without keys answers to, besides "
        "localhost; *.example.org is every name below it; empty: none if GATEWAY_HOST is a "
        "loopback address, else every one.",
    )
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        default=(),
        description="Addresses or networks of proxies, as a JSON list, whose `X-Forwarded-For` "
        "and `X-Forwarded-Proto` are believed; empty: nobody's are.",
    )
    http_port: int = Field(default=8080, ge=0, le=65535, description="Port of the REST API.")
    grpc_port: int = Field(default=8081, ge=0, le=65535, description="Port of the gRPC API.")
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of /metrics alone, plain HTTP without keys; unset: /metrics is on the "
        "REST port, and needs a key where there are keys.",
    )
    metrics_host: str | None = Field(
        default=None, description="Address that the metrics port listens on; unset: GATEWAY_HOST."
    )
    triton_address: str = Field(
        default="127.0.0.1:8001",
        pattern=r"^[^\s,:]+:[0-9]{1,5}(,[^\s,:]+:[0-9]{1,5})*$",
        description="host:port of Triton's gRPC; several with commas between, or a name that "
        "stands for several.",
    )
    triton_secret_file: Path | None = Field(
        default=None,
        description="File of the secret that Triton asks of whoever loads models, read at each "
        "load; unset: there is none, and a Triton that asks for one loads no new versions.",
    )
    triton_calls: int = Field(
        default=2,
        ge=1,
        le=1024,
        description="Calls of one encoder under way at a time, for each Triton; what comes "
        "meanwhile is joined into the next. 1 is best for a CPU, and what `make run` takes.",
    )
    triton_verify_s: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="Seconds between checks of every encoder: by its golden vector, or, while "
        "nobody uses it, by the count of rows that Triton has run since it loaded it.",
    )
    model_repository: Path = Field(
        default=Path("model_repository"),
        description="Folder with the manifests of the served models.",
    )
    models: tuple[str, ...] = Field(
        default=(), description="Ids of the models to serve, as a JSON list; empty serves all."
    )
    default_model: str | None = Field(
        default=None,
        description="Model of requests that name none; unset: the one that is served.",
    )
    ready_all: bool = Field(
        default=False,
        description="Whether `/readyz` waits for every model; else it answers 200 while the "
        "default one, or where there is none any, gives right answers.",
    )
    model_aliases: dict[str, str] = Field(
        default={},
        description="Other names of served models, as a JSON object: name -> id.",
    )
    label_sets: Path | None = Field(
        default=None,
        description="Folder of label sets (*.yaml), encoded at start.",
    )
    template_sets: Path | None = Field(
        default=None, description="YAML file of template sets, beside the built-in ones."
    )
    text_cache_bytes: int = Field(
        default=32 * 2**20,
        ge=0,
        le=LARGEST,
        description="Bytes of vectors of texts and labels kept for those who ask again; 0: none.",
    )
    request_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds after which a request is given up with 504.",
    )
    drain_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds that requests under way get to end when the gateway is stopped.",
    )
    reload_s: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="Seconds between looks at the manifests for new versions of models; 0: only "
        "on SIGHUP and `POST /v1/admin/reload`.",
    )
    workers: int = Field(default=1, ge=1, le=256, description="Processes that share both ports.")
    decode_threads: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Threads of a process that decode images and tokenize; unset: one per core, "
        "shared among the processes. Requests with much text have one thread more.",
    )
    decode_processes: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Processes (for each of the gateway's) that decode images, so that a crash in "
        "a codec costs one image; 0: threads, which take less memory and CPU.",
    )
    decode_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Seconds after which a decoder process that has not answered is replaced.",
    )
    exif_orientation: bool = Field(
        default=False,
        description="Turn images upright as their EXIF says; OpenCLIP does not.",
    )
    preprocessing: Literal["exact", "fast"] = Field(
        default="exact",
        description="exact: OpenCLIP's pixels bit for bit; fast: scaled JPEG decoding and SIMD "
        "resizing, with vectors that differ a little.",
    )
    jpeg_draft: bool = Field(
        default=False, description="The old name of `GATEWAY_PREPROCESSING=fast`."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info (a line for each request), warning or error."
    )
    log_format: Literal["json", "console"] = Field(
        default="console", description="json, or console for people."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]",
        description="Where OpenTelemetry traces are sent, OTLP over gRPC, such as "
        "`http://collector:4317`; unset: there are none.",
    )
    max_connections: int = Field(
        default=2048,
        ge=1,
        le=LARGEST,
        description="REST connections of a process; beyond, the one that has waited longest for "
        "its client is ended.",
    )
    head_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Seconds that the head of a REST request may take to arrive; beyond, 408.",
    )
    min_rate: int = Field(
        default=16 * 2**10,
        ge=0,
        le=LARGEST,
        description="Bytes a second, over 10 seconds, at which the body of a REST request must "
        "arrive (else 408), and its answer be read (else the connection ends); 0: any.",
    )
    max_inflight: int = Field(
        default=256,
        ge=1,
        le=LARGEST,
        description="Requests worked on at a time; those beyond are answered 429.",
    )
    max_inflight_items: int = Field(
        default=4096,
        ge=1,
        le=LARGEST,
        description="Texts and images worked on at a time, a stream counting as its whole window; "
        "beyond, 429.",
    )
    max_inflight_bytes: int = Field(
        default=384 * 2**20,
        ge=1,
        le=LARGEST,
        description="Bytes of a process's memory that requests may take at a time, as they "
        "arrive: a body up to seven times its size, images their pixels; beyond, 429.",
    )
    client_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="The part of requests, items and bytes in flight that one client (an API key, "
        "or without keys an address) may hold while others hold some; alone, it leaves as much "
        "free. 1: it may hold all.",
    )
    max_wait_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Seconds that a request may be expected to wait for those before it; "
        "beyond, 429.",
    )
    stream_idle_s: float = Field(
        default=300.0,
        gt=0,
        le=86400,
        description="Seconds after which a gRPC stream that sends nothing, or does not read its "
        "results, is ended.",
    )
    stream_window: int = Field(
        default=128,
        ge=1,
        le=4096,
        description="Items of one gRPC stream worked on at a time; no more are read till then.",
    )
    max_body_bytes: int = Field(
        default=48 * 2**20, ge=1, le=2**30, description="Bytes of one request's body; beyond, 413."
    )
    max_items: int = Field(
        default=2048, ge=1, le=LARGEST, description="Texts and images in one request; beyond, 413."
    )
    max_labels: int = Field(
        default=2_000, ge=1, le=LARGEST, description="Labels in one zero-shot request."
    )
    max_prompts: int = Field(
        default=20_000,
        ge=1,
        le=LARGEST,
        description="Labels times templates in one zero-shot request.",
    )
    max_text_characters: int = Field(
        default=32_768, ge=1, le=LARGEST, description="Characters of one text, label or template."
    )
    max_image_bytes: int = Field(
        default=32 * 2**20, ge=1, le=2**30, description="Bytes of one encoded image."
    )
    max_image_pixels: int = Field(
        default=50_000_000, ge=1, le=89_000_000, description="Pixels of one decoded image."
    )
    max_resized_pixels: int = Field(
        default=4_000_000,
        ge=1,
        le=LARGEST,
        description="Pixels that resizing an image's short side may make, before the crop.",
    )
    max_decode_bytes: int = Field(
        default=256 * 2**20,
        ge=1,
        le=LARGEST,
        description="Bytes that decoding may take, of all images at a time; one image may take "
        "twice as much, while no other is decoded.",
    )

    api_keys_file: Path | None = Field(
        default=None,
        description="YAML file of the SHA-256 digests and quotas of API keys, read again when it "
        "changes; unset: nobody needs a key.",
    )
    tls_cert: Path | None = Field(
        default=None,
        description="PEM file of the certificate, with its chain, for both protocols, read again "
        "when it changes; unset: plain text.",
    )
    tls_key: Path | None = Field(
        default=None,
        description="PEM file of the certificate's key, not encrypted, read again when it changes.",
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file of authorities, read again when it changes; clients must show a "
        "certificate of one of them.",
    )
    fetch_urls: bool = Field(
        default=False, description="Whether images may be given as http(s) URLs."
    )
    fetch_hosts: tuple[Host, ...] = Field(
        default=(),
        description="Hosts that are fetched from, as a JSON list; *.example.org is every name "
        "below it; empty: every host.",
    )
    fetch_ports: tuple[Port, ...] = Field(
        default=(), description="Ports that are fetched from, as a JSON list; empty: 80 and 443."
    )
    fetch_private: bool = Field(
        default=False,
        description="Whether private and loopback addresses may be fetched from as well.",
    )
    fetch_timeout_s: float = Field(
        default=5.0, gt=0, le=600, description="Seconds to fetch one image in, redirects included."
    )
    fetch_max_redirects: int = Field(
        default=3, ge=0, le=20, description="Redirects that are followed for one image."
    )
    fetch_concurrency: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Images that one process fetches at a time; a request alone, half of them.",
    )

    @field_validator("triton_address")
    @classmethod
    def _has_ports(cls, value: str) -> str:
        for address in value.split(","):
            if not 1 <= int(address.rpartition(":")[2]) <= 65_535:
                raise ValueError(f"{address}: a port is a number from 1 to 65535")
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
