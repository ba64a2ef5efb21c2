"""A published model: manifest, tokenizer, registry, and the values that pass between stages.

May import `gateway.errors` alone.
"""
