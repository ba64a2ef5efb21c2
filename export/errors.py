"""What can go wrong with an export, in the order of its stages.

ExportError
├── CheckpointError   the model, its weights or its configuration cannot be loaded
│   └── HubError      something must be downloaded, and cannot be
├── TokenizerError    the tokenizer cannot be written in the `tokenizers` format
├── GraphError        a tower cannot be turned into ONNX
├── GateError         the ONNX towers answer differently from OpenCLIP
│   └── CrashError    ONNX Runtime crashes on a tower
└── RepositoryError   the model repository cannot be written, or must not be
"""


class ExportError(Exception):
    """Base of all errors that an export ends in; the message is one line for the user."""

    exit_code = 1


class CheckpointError(ExportError):
    """The model, its weights or its configuration cannot be loaded."""


class HubError(CheckpointError):
    """Something must be downloaded, and cannot be."""


class TokenizerError(ExportError):
    """The tokenizer cannot be written so that the gateway gives the same ids."""


class GraphError(ExportError):
    """A tower cannot be turned into ONNX."""


class GateError(ExportError):
    """The ONNX towers answer differently from OpenCLIP in PyTorch FP32."""

    exit_code = 2


class CrashError(GateError):
    """ONNX Runtime crashes on a tower, or does not come to an end with it."""


class RepositoryError(ExportError):
    """The model repository cannot be written, or writing would break what is published."""


def brief(error: BaseException, limit: int = 300) -> str:
    """The first lines of a foreign error, as one line."""
    lines = [_cut(line.strip(), 160) for line in str(error).splitlines() if line.strip()]
    return _cut("; ".join(lines[:4]) or type(error).__name__, limit)


def _cut(text: str, limit: int) -> str:
    """At most `limit` characters; what is cut ends after a word, in "..."."""
    if len(text) <= limit:
        return text
    kept = text[: limit - 3]
    return (kept.rpartition(" ")[0] or kept).rstrip(" .,;:") + "..."
