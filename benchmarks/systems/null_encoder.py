"""A model repository whose encoders do no work.

Everything equals the published model that it copies, except that each encoder's graph ignores its
input and returns one fixed unit vector for each row. Only Triton's and the gateway's own time
remains of a request. The golden vectors are that vector, so `/readyz` succeeds.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.systems.published import (
    CONFIG,
    PIXELS,
    TOKEN_IDS,
    Manifest,
    encoders,
    on_onnx_runtime,
    packed,
)
from benchmarks.systems.repositories import write_manifest
from benchmarks.traffic.errors import BenchmarkError

OUTPUTS = {PIXELS: "image_features", TOKEN_IDS: "text_features"}
FLOAT, UINT8, INT32, INT64 = 1, 2, 6, 7  # onnx.TensorProto.DataType
ATTRIBUTE_INT = 2  # onnx.AttributeProto.INT
IR_VERSION, OPSET = 8, 17
VARINT, BYTES = 0, 2  # Protocol Buffers' wire types


def write_repository(repository: Path, manifest: Manifest, target: Path) -> Manifest:
    """Write the repository into a folder that must not exist yet; return its manifest.

    Raises:
        BenchmarkError: The model is not served by ONNX Runtime, or the folder exists.
    """
    on_onnx_runtime(manifest)
    if target.exists():
        raise BenchmarkError(f"{target} exists already")
    target.mkdir(parents=True)
    vector = unit_vector(manifest["embedding_size"])
    size = manifest["preprocessing"]["image_size"]
    shapes: dict[str, tuple[str, int, tuple[int | str, ...]]] = {
        manifest["triton"]["image"]["name"]: (PIXELS, UINT8, (size, size, 3))
    }
    for encoder in manifest["triton"]["text"]:
        length = "length" if packed(manifest) else encoder["length"]
        shapes[encoder["name"]] = (TOKEN_IDS, INT32, (length,))
    for encoder in encoders(manifest):
        folder = target / encoder["name"] / str(manifest["version"])
        folder.mkdir(parents=True)
        shutil.copy(repository / encoder["name"] / CONFIG, folder.parent / CONFIG)
        (folder / "model.onnx").write_bytes(graph(*shapes[encoder["name"]], vector))
    tokenizer = manifest["tokenizer"]["file"]
    shutil.copy(repository / tokenizer, target / tokenizer)
    changed = _changed(manifest, vector)
    write_manifest(target, changed)
    return changed


def unit_vector(size: int) -> NDArray[np.float32]:
    """A fixed vector, float32 [size], of length 1."""
    vector = np.random.default_rng(0).standard_normal(size)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def graph(
    name: str, data_type: int, shape: tuple[int | str, ...], vector: NDArray[np.float32]
) -> bytes:
    """An ONNX model: `name` [n, *shape] in, `vector` n times out, which is float32 [n, D].

    It reads the input's shape, not its content. A dimension of any size has a name.
    """
    output = OUTPUTS[name]
    start_end = [_attribute("start", 0), _attribute("end", 1)]
    nodes = [
        _node("Shape", [name], "rows", *start_end),
        _node("Concat", ["rows", "columns"], "wanted", _attribute("axis", 0)),
        _node("Expand", ["vector", "wanted"], output),
    ]
    constants = [
        _tensor("columns", INT64, np.array([len(vector)], np.int64)),
        _tensor("vector", FLOAT, vector[None]),
    ]
    body = _message(
        *((1, node) for node in nodes),
        (2, "null_encoder"),
        *((5, constant) for constant in constants),
        (11, _value(name, data_type, shape)),
        (12, _value(output, FLOAT, (len(vector),))),
    )
    return _message((1, IR_VERSION), (7, body), (8, _message((1, ""), (2, OPSET))))


def _changed(manifest: Manifest, vector: NDArray[np.float32]) -> Manifest:
    """The manifest of the copy; its own fingerprint keeps its vectors apart from the model's."""
    known = [float(value) for value in vector]
    fingerprint = hashlib.sha256(f"null {manifest['fingerprint']}".encode()).hexdigest()
    golden = manifest["golden"] | {"text_features": known, "image_features": known}
    return manifest | {"fingerprint": fingerprint, "golden": golden, "files": {}}


def _node(operator: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    return _message(
        *((1, name) for name in inputs),
        (2, output),
        (4, operator),
        *((5, attribute) for attribute in attributes),
    )


def _attribute(name: str, value: int) -> bytes:
    return _message((1, name), (3, value), (20, ATTRIBUTE_INT))


def _tensor(name: str, data_type: int, values: NDArray[Any]) -> bytes:
    dims = [(1, size) for size in values.shape]
    return _message(*dims, (2, data_type), (8, name), (9, values.tobytes()))


def _value(name: str, data_type: int, shape: tuple[int | str, ...]) -> bytes:
    """Name and type of an input or output, with an open first dimension."""
    sizes = ("n", *shape)
    dimensions = [_field(1, _field(2 if isinstance(size, str) else 1, size)) for size in sizes]
    tensor = _message((1, data_type), (2, b"".join(dimensions)))
    return _message((1, name), (2, _field(1, tensor)))


def _message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A Protocol Buffers message, with the field numbers of `onnx.proto`."""
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | VARINT) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | BYTES) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
