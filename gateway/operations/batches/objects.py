"""OpenAI's objects for files and batches, as they are stored and as clients get them."""

from typing import Literal

from pydantic import BaseModel, Field

WINDOW_S = 24 * 3600  # the only completion window
ENDED = frozenset({"failed", "completed", "expired", "cancelled"})


class FileObject(BaseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Seconds since 1970, as all times.")
    expires_at: int = Field(description="When it is deleted.")
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    status_details: None = None


class BatchError(BaseModel):
    """Why a batch failed."""

    code: str
    message: str
    param: str | None = None
    line: int | None = Field(default=None, description="Of the input file, from 1.")


class BatchErrors(BaseModel):
    """Why a batch failed; for a wrong input file at most 100 errors."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    """The lines of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchObject(BaseModel):
    """A batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: Literal["/v1/embeddings"] = "/v1/embeddings"
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired",
        "cancelling", "cancelled",
    ] = "validating"  # fmt: skip
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    metadata: dict[str, str] | None = None


class StoredBatch(BaseModel):
    """A batch as it is stored: with the ids that its results get, and how long they are kept."""

    batch: BatchObject
    output_id: str
    errors_id: str
    keep_s: int
