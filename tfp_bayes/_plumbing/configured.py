"""Objects that a configuration can name: a string, a dictionary, or the object itself."""

from numbers import Real

import keras


class Configured:
    """Something immutable made from plain values, such as a prior.

    Two objects of one class with one configuration are interchangeable: state that is learned
    lives in a layer's weights, never here.
    """

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict) -> "Configured":
        """Rebuilds the object from `get_config()`."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def get_configured(identifier, base: type, argument: str, classes: dict[str, type]):
    """Returns the object that a user meant.

    Args:
        identifier: A name out of `classes` (built with its defaults), a dictionary of a "name"
            and arguments, the dictionary of `keras.saving.serialize_keras_object`, or an object
            of type `base`.
        base: What it has to be.
        argument: Name of the user's argument, for the error.
        classes: The built-in classes by name.

    Raises:
        ValueError: If it is none of these.
    """
    result = identifier
    if isinstance(identifier, dict) and identifier.get("name") in classes:
        arguments = {k: v for k, v in identifier.items() if k != "name"}
        try:
            result = classes[identifier["name"]](**arguments)
        except TypeError as error:
            raise ValueError(
                f"Expected arguments of {classes[identifier['name']].__name__} for `{argument}`. "
                f"Received: {argument}={identifier!r}. Hint: {error}."
            ) from None
    elif isinstance(identifier, dict):
        result = keras.saving.deserialize_keras_object(identifier)
    elif isinstance(identifier, str) and identifier in classes:
        result = classes[identifier]()
    if not isinstance(result, base):
        raise ValueError(
            f"Expected one of {sorted(classes)}, or an object of type {base.__name__}, for "
            f"`{argument}`. Received: {argument}={identifier!r}. Hint: an object lets you set "
            f"its arguments, as does a dictionary with a name and arguments."
        )
    return result


def check_positive(**arguments: float) -> None:
    """Raises ValueError unless every argument is a positive, finite number."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < 1e30:
            raise ValueError(
                f"Expected a positive, finite number for `{name}`. Received: {name}={value!r}. "
                "Hint: a number above 0, such as 1.0."
            )
