"""Serves OpenCLIP embeddings, classification and ranking over REST and gRPC, on Triton.

May import `openclip_api`.
"""
