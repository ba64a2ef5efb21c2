"""Reasons why a backend does not serve a model."""


class ConfigError(ValueError):
    """A key of the model configuration has an unsupported value."""


class ModelLoadError(Exception):
    """The model cannot be served; Triton reports the message as the reason."""
