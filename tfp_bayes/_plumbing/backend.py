"""Imported for its check: Keras has to run on TensorFlow."""

try:
    import keras

    name = keras.config.backend()
except ImportError as error:
    raise ImportError(
        f"Expected Keras 3 with TensorFlow. Received: {error}. "
        'Hint: pip install tensorflow, and set KERAS_BACKEND="tensorflow" if it is set at all.'
    ) from error

if name != "tensorflow":
    raise ImportError(
        f"Expected Keras to run on TensorFlow. Received: keras.config.backend()={name!r}. "
        'Hint: set KERAS_BACKEND="tensorflow" before importing keras.'
    )
