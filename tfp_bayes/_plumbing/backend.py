"""Check, on import, that Keras runs on TensorFlow."""

try:
    import keras

    name = keras.config.backend()
except ImportError as error:
    raise ImportError(
        f"Expected Keras 3 with TensorFlow. Received: {error}. "
        "Hint: pip install tensorflow. If KERAS_BACKEND is set, it must be "
        'KERAS_BACKEND="tensorflow".'
    ) from error

if name != "tensorflow":
    raise ImportError(
        f"Expected Keras to run on TensorFlow. Received: keras.config.backend()={name!r}. "
        'Hint: set KERAS_BACKEND="tensorflow" before importing keras.'
    )
