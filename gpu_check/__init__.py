"""Checks that need a GPU machine; they need no network, registry or PyTorch.

    environment   the installed GPU, driver, CUDA, ONNX Runtime, TensorRT and Triton
    encoders      each model in ONNX Runtime           plans    its TensorRT plans
    service       Triton and the gateway under closed and open loops

May import `benchmarks`, `export`, `gateway.models` and `server`; never PyTorch or OpenCLIP.
Nothing imports it.
"""
