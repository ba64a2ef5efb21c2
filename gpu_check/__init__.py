"""Checks on a GPU machine what no other machine can show; without network, registry or PyTorch.

    environment   GPU, driver, CUDA, ONNX Runtime, TensorRT and Triton that are there
    encoders      each model in ONNX Runtime           plans    its TensorRT plans
    service       Triton and the gateway under closed and open loops

May import everything but PyTorch and OpenCLIP. Nothing imports it.
"""
