"""Import PyTorch's Triton, if installed, before TensorFlow; in the other order LLVM aborts."""

import contextlib

with contextlib.suppress(ImportError):
    import triton  # noqa: F401
