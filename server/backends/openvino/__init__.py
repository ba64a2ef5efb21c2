"""The ``openvino`` backend; Triton loads ``model.py``."""
