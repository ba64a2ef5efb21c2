"""The gRPC contract: `v1/clip.proto` and the code generated from it. Imports nothing of ours."""
