"""Stands for every model that is not in the model repository: it refuses to load."""


class TritonPythonModel:
    """Nothing that can be served."""

    def initialize(self, args: dict[str, str]) -> None:
        """Tell why; Triton reports it as the reason."""
        raise PermissionError(
            f"model {args['model_name']}: only files of the model repository are loaded, by the "
            "onnxruntime backend"
        )
