"""The gRPC edge: each method parses, calls the engine once, and fills a message."""
