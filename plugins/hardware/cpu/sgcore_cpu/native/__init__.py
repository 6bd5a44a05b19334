"""Kernels in C++ and what compiles them."""
