"""What a published model is: manifest, tokenizer, registry, and the values between stages.

May import `gateway.errors` alone.
"""
