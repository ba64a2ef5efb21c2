"""Replaces every model from outside the model repository: it refuses to load."""


class TritonPythonModel:
    """A model that cannot be served."""

    def initialize(self, args: dict[str, str]) -> None:
        """Raise the reason, which Triton reports."""
        raise PermissionError(
            f"model {args['model_name']}: only files of the model repository are loaded, by the "
            "onnxruntime and openvino backends"
        )
