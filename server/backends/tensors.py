"""Converts Triton tensors to NumPy arrays and back, through DLPack.

The stub of the nvidia-pytriton wheel was built against NumPy 1. Under NumPy 2 it misreads the
item size: ``Tensor.as_numpy()`` has strides of 0 (every element equals the first), and
``Tensor(name, array)`` sends no bytes, both without an error. DLPack is right under both.
"""

import ctypes

import numpy as np
import triton_python_backend_utils as pb_utils

from server.backends.errors import ModelLoadError

# The stub renames a consumed capsule to a name that NumPy does not know, and NumPy then prints a
# traceback when it frees the capsule. The DLPack protocol requires this name.
TAKEN = ctypes.c_char_p(b"used_dltensor")
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.argtypes = (ctypes.py_object, ctypes.c_char_p)


def to_array(tensor: "pb_utils.Tensor") -> np.ndarray:
    """View the tensor in shared memory; copy it only if it is not aligned."""
    return np.require(np.from_dlpack(tensor), requirements=["C", "A"])


def to_tensor(name: str, array: np.ndarray) -> "pb_utils.Tensor":
    """Make an output tensor that keeps ``array`` alive; Triton copies it into shared memory."""
    capsule = np.require(array, requirements=["C", "W"]).__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_name(capsule, TAKEN)
    return tensor


def check_round_trip() -> None:
    """Check that this stub and this NumPy exchange arrays correctly.

    Raises:
        ModelLoadError: They do not, and every answer would be wrong.
    """
    for dtype in (np.uint8, np.int32, np.float16, np.float32):
        array = np.arange(6, dtype=dtype).reshape(2, 3)
        if not np.array_equal(to_array(to_tensor("probe", array)), array):
            raise ModelLoadError(
                f"NumPy {np.__version__} and this Triton stub do not exchange {array.dtype} tensors"
            )
