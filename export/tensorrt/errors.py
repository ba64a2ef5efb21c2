"""Errors of TensorRT plans.

PlanError
├── TensorRtMissingError   this machine has no TensorRT: no module to build with, or no library
├── NoGpuError             the machine has no NVIDIA GPU that can be used
└── WrongEngineError       a plan was built for another TensorRT or GPU
"""

from export.errors import ExportError


class PlanError(ExportError):
    """A TensorRT plan cannot be built, or cannot run here."""


class TensorRtMissingError(PlanError):
    """This machine has no TensorRT: no module to build with, or no library to run with."""


class NoGpuError(PlanError):
    """The machine has no NVIDIA GPU that can be used."""


class WrongEngineError(PlanError):
    """A plan was built for another TensorRT or GPU."""
