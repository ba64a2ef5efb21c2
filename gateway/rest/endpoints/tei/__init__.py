"""The routes of text-embeddings-inference (TEI), in its shapes and with its errors.

May import `gateway.rest` and what it may import; of the other endpoints only `rerank`.
"""
