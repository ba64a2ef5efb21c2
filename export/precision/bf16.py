"""Converts FP32 graphs to OpenVINO's format, to be computed in BF16.

OpenVINO itself rounds to BF16 while it runs, with sums in FP32. The file has the weights as FP16:
half the size, more bits than BF16, and OpenVINO maps them into memory. For ViT-B-32's image encoder
that takes 130 MB at most while it loads; ONNX or weights stored as BF16 take 740 and 620 MB.
"""

from pathlib import Path

from export.errors import ExportError, GraphError, brief
from export.precision.processor import CPUINFO, flags_of
from gateway.models.variants import processor

FLAGS = frozenset(("avx512_bf16", "amx_bf16"))  # of processors that multiply BF16 matrices


def check_processor(cpuinfo: Path = CPUINFO) -> None:
    """Check that this processor can compute in BF16, and that OpenVINO is installed.

    Raises:
        ExportError: It cannot, so BF16 would be measured in FP32; or OpenVINO is missing.
    """
    if FLAGS.isdisjoint(flags_of(cpuinfo)):
        raise ExportError(
            f"BF16 needs a processor with avx512_bf16 or amx_bf16 among its flags in {cpuinfo}; "
            f"this one ({processor(cpuinfo)}) has neither"
        )
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise ExportError(f"BF16 needs the Python package openvino: {error}") from error


def to_openvino(path: Path) -> Path:
    """Replace an ONNX file and its weights with `model.xml` and `model.bin`; return the former.

    Raises:
        GraphError: OpenVINO cannot read it.
    """
    import openvino

    written = path.with_name("model.xml")
    try:
        openvino.save_model(openvino.Core().read_model(path), written, compress_to_fp16=True)
    except RuntimeError as error:
        raise GraphError(f"{path.name}: OpenVINO cannot convert it: {brief(error)}") from error
    for onnx_file in path.parent.glob(f"{path.name}*"):
        onnx_file.unlink()
    return written
