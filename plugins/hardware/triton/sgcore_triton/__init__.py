"""Triton kernels and attention for sgcore, shared by the CUDA and ROCm platforms."""
