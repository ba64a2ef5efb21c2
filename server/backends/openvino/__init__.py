"""The ``openvino`` backend; Triton loads ``model.py``.

May import `server.backends`.
"""
