"""Start of TensorFlow without the messages that its C++ code prints."""

import os
import sys
from pathlib import Path


def start_tensorflow() -> None:
    """Import TensorFlow silently. Python exceptions and later messages are not suppressed."""
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()  # the first call prints warnings if there is no GPU
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
