"""Everything that can be set, from `GATEWAY_*` environment variables."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The gateway's settings, read once at start."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True, extra="ignore")

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    http_port: int = Field(default=8080, ge=0, le=65535, description="Port of the REST API.")
    triton_address: str = Field(default="127.0.0.1:8001", description="host:port of Triton's gRPC.")
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
    request_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds after which a request is given up with 504.",
    )
    decode_threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=256,
        description="Threads that decode images and tokenize long texts; by default one per core.",
    )
    max_inflight: int = Field(
        default=256,
        ge=1,
        description="Requests worked on at a time; those beyond are answered 429.",
    )
    max_inflight_bytes: int = Field(
        default=512 * 2**20,
        ge=1,
        description="Bytes of request bodies held at a time; beyond, 429.",
    )
    max_body_bytes: int = Field(
        default=64 * 2**20, ge=1, description="Bytes of one request's body; beyond, 413."
    )
    max_items: int = Field(
        default=256, ge=1, description="Texts and images in one request; beyond, 413."
    )
    max_labels: int = Field(default=2_000, ge=1, description="Labels in one zero-shot request.")
    max_prompts: int = Field(
        default=20_000, ge=1, description="Labels times templates in one zero-shot request."
    )
    max_text_characters: int = Field(
        default=32_768, ge=1, description="Characters of one text, label or template."
    )
    max_image_bytes: int = Field(
        default=32 * 2**20, ge=1, description="Bytes of one encoded image."
    )
    max_image_pixels: int = Field(
        default=50_000_000, ge=1, le=89_000_000, description="Pixels of one decoded image."
    )
    max_resized_pixels: int = Field(
        default=4_000_000,
        ge=1,
        description="Pixels that resizing an image's short side may make, before the crop.",
    )
