"""The routes of text-embeddings-inference (TEI), in its shapes and with its errors.

May import what the other endpoints may, and `rerank` of them.
"""
