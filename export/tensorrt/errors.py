"""Errors of TensorRT plans, in the order of building and loading.

PlanError
├── TensorRtMissingError   this machine has no TensorRT: no module to build with, or no library
├── NoGpuError             the machine has no NVIDIA GPU that can be used
├── UnsupportedLayerError  TensorRT's parser refuses a node of the graph
├── OutOfMemoryError       the build needs more GPU memory
├── NotBuiltError          TensorRT built no plan, for another reason
└── WrongEngineError       a plan was built for another TensorRT or GPU
"""

from export.errors import ExportError


class PlanError(ExportError):
    """A TensorRT plan cannot be built, or cannot run here."""


class TensorRtMissingError(PlanError):
    """This machine has no TensorRT: no module to build with, or no library to run with."""


class NoGpuError(PlanError):
    """The machine has no NVIDIA GPU that can be used."""


class UnsupportedLayerError(PlanError):
    """TensorRT's parser refuses a node of the graph."""


class OutOfMemoryError(PlanError):
    """The build needs more GPU memory."""


class NotBuiltError(PlanError):
    """TensorRT built no plan."""


class WrongEngineError(PlanError):
    """A plan was built for another TensorRT or GPU."""
