"""The REST edge: routes parse, call the engine once, and write a schema."""
