"""Errors of launching Triton, in the order of the steps.

ServerError
├── RepositoryError    the model repository or one of its manifests is unusable
├── SecretError        the file of Triton's secret is unusable
├── PortError          a port is taken, given twice or out of range; or the host is unknown
├── RuntimeFilesError  the wheel, libpython or a Python package that Triton needs is missing
├── ModelLoadError     Triton is up, but a model did not load
├── StartTimeoutError  Triton was not ready in time
└── ServerExitedError  tritonserver ended by itself
"""


class ServerError(Exception):
    """Base of all errors of starting and running Triton."""


class RepositoryError(ServerError):
    """The model repository, or a manifest in it, cannot be used."""


class SecretError(ServerError):
    """The file of Triton's secret cannot be read or made, or holds no secret."""


class PortError(ServerError):
    """An address that Triton should listen on cannot be used."""


class RuntimeFilesError(ServerError):
    """A file or package that tritonserver or its Python backend needs is missing."""


class ModelLoadError(ServerError):
    """Triton refused to load at least one model."""


class StartTimeoutError(ServerError):
    """Triton was not ready in time."""


class ServerExitedError(ServerError):
    """The tritonserver process ended by itself."""
