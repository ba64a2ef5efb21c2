"""Embedding classes of other makers' frameworks, on `Client`; each needs the extra of its name."""
