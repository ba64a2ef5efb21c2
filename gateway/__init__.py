"""The gateway: OpenCLIP embeddings and zero-shot classification over REST, in front of Triton."""
