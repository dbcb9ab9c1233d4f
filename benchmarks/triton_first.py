"""Loads PyTorch's Triton, where it is, before TensorFlow: the other way round their LLVMs abort."""

import contextlib

with contextlib.suppress(ImportError):
    import triton  # noqa: F401
