"""Replaces NVIDIA's `tensorrt` package, which would bring a second copy of the library."""

from tensorrt_bindings import *  # noqa: F403 (the whole module under its other name)
from tensorrt_bindings import __version__ as __version__
