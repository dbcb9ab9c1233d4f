"""TensorFlow without the lines that its C++ prints as it starts."""

import os
import sys
from pathlib import Path


def start_tensorflow() -> None:
    """Imports it in silence; Python's errors still come through, and what is printed later."""
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()  # complains about a missing GPU when it first looks
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
