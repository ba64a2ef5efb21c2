"""What can go wrong with a TensorRT plan, in the order of building and loading one.

PlanError
├── TensorRtMissingError   there is no TensorRT here: no module to build with, or no library
├── NoGpuError             the machine has no NVIDIA GPU that can be used
├── UnsupportedLayerError  TensorRT's parser refuses a node of the graph
├── OutOfMemoryError       GPU memory does not suffice to build
├── NotBuiltError          TensorRT built no plan, for any other reason
└── WrongEngineError       a plan was built for another TensorRT or GPU than those here
"""

from export.errors import ExportError


class PlanError(ExportError):
    """A TensorRT plan cannot be built, or cannot run here."""


class TensorRtMissingError(PlanError):
    """There is no TensorRT here: no module to build with, or no library to run with."""


class NoGpuError(PlanError):
    """The machine has no NVIDIA GPU that can be used."""


class UnsupportedLayerError(PlanError):
    """TensorRT's parser refuses a node of the graph."""


class OutOfMemoryError(PlanError):
    """GPU memory does not suffice to build."""


class NotBuiltError(PlanError):
    """TensorRT built no plan."""


class WrongEngineError(PlanError):
    """A plan was built for another TensorRT or GPU than those here."""
