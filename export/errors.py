"""Errors of an export, in the order of its stages.

ExportError
├── CheckpointError   the model, its weights or its configuration cannot be loaded
│   └── HubError      a necessary download fails
├── TokenizerError    the tokenizer cannot be written in the `tokenizers` format
├── GraphError        an encoder cannot be turned into ONNX
├── GateError         the ONNX encoders answer differently from OpenCLIP
│   └── CrashError    ONNX Runtime crashes on an encoder
├── RepositoryError   the model repository cannot be written, or writing would break it
└── TransferError     a model cannot be copied to or from another place
    └── MissingError    a file is not there
"""

import re


class ExportError(Exception):
    """Base of all errors of an export; the message is one line for the user."""

    exit_code = 1


class CheckpointError(ExportError):
    """The model, its weights or its configuration cannot be loaded."""


class HubError(CheckpointError):
    """A necessary download fails."""


class TokenizerError(ExportError):
    """The tokenizer cannot be written so that the gateway gives the same ids."""


class GraphError(ExportError):
    """An encoder cannot be turned into ONNX."""


class GateError(ExportError):
    """The ONNX encoders answer differently from OpenCLIP in PyTorch FP32."""

    exit_code = 2


class CrashError(GateError):
    """ONNX Runtime crashes on an encoder, or does not finish."""


class RepositoryError(ExportError):
    """The model repository cannot be written, or writing would break what is published."""


class TransferError(ExportError):
    """A model cannot be copied to or from another place."""


class MissingError(TransferError):
    """A file is not there."""


def brief(error: BaseException, limit: int = 300) -> str:
    """Shorten a foreign error to one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours
    lines = [_cut(line.strip(), 160) for line in text.splitlines() if line.strip()]
    return _cut("; ".join(lines[:4]) or type(error).__name__, limit)


def _cut(text: str, limit: int) -> str:
    """Cut the text to `limit` characters, after a word, with "..." at the end."""
    if len(text) <= limit:
        return text
    kept = text[: limit - 3]
    return (kept.rpartition(" ")[0] or kept).rstrip(" .,;:") + "..."
