"""Any OpenCLIP model -> its two encoders as PyTorch modules, ONNX graphs and a tokenizer file.

May import `export.errors` and `gateway.models`.
"""
