"""Objects that can be given as a string, as a dictionary, or as the object itself."""

import inspect
import math
import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any


class Configured:
    """Base class of immutable objects made from plain values, such as priors.

    Two objects of the same class and configuration are interchangeable. Learned state lives in
    the weights of a layer, never here.
    """

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, read from the attributes of the same names.

        Their values are plain JSON.
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config: dict) -> "Configured":
        """Rebuild the object from the result of `get_config()`."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def get_configured(
    identifier: object, base: type, argument: str, classes: Mapping[str, type[Configured]]
) -> Any:
    """Return the object that an identifier describes.

    Args:
        identifier: A name in `classes` (the class is built with its defaults), a dictionary with
            a "name" and arguments, a dictionary from `keras.saving.serialize_keras_object`, or
            an object of type `base`.
        base: Required type of the object.
        argument: Name of the user's argument, for the error.
        classes: Built-in classes by name.

    Raises:
        ValueError: If the identifier is none of these.
    """
    result: object = identifier
    if isinstance(identifier, dict):
        result = _from_dictionary(identifier, argument, classes)
    elif isinstance(identifier, str) and identifier in classes:
        result = classes[identifier]()
    if not isinstance(result, base):
        raise ValueError(
            f"Expected one of {sorted(classes)}, or an object of type {base.__name__}, for "
            f"`{argument}`. Received: {argument}={identifier!r}. Hint: to set its arguments, "
            'pass an object, or a dictionary with a "name" and the arguments.'
        )
    return result


def _from_dictionary(
    identifier: dict, argument: str, classes: Mapping[str, type[Configured]]
) -> object:
    """Return the object that a dictionary describes, or the dictionary if it is unknown."""
    if "class_name" in identifier:  # in Keras' format
        by_class = {classes[name].__name__: classes[name] for name in classes}
        known = by_class.get(str(identifier["class_name"]))
        config = identifier.get("config")
        if known is not None and isinstance(config, dict):
            return known.from_config(config)
        if "keras" in sys.modules:  # otherwise no class can have been registered with Keras
            return sys.modules["keras"].saving.deserialize_keras_object(identifier)
        return identifier
    name = identifier.get("name")
    if not isinstance(name, str) or name not in classes:
        return identifier
    arguments = {key: value for key, value in identifier.items() if key != "name"}
    made = classes[name]
    try:
        inspect.signature(made).bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"Expected arguments of {made.__name__} for `{argument}`. "
            f"Received: {argument}={identifier!r}. Hint: {error}."
        ) from None
    try:
        return made(**arguments)
    except (TypeError, ValueError) as error:
        if str(error).startswith("Expected"):
            raise
        # A value has the wrong type, such as a string instead of a number.
        raise ValueError(
            f"Expected values that {made.__name__} accepts for `{argument}`. "
            f"Received: {argument}={identifier!r}. Hint: {error}."
        ) from None


def check_finite(**arguments: float) -> None:
    """Raise ValueError unless every argument is a finite number."""
    for name, value in arguments.items():
        if not _is_number(value) or not abs(value) < math.inf:
            raise ValueError(
                f"Expected a finite number for `{name}`. Received: {name}={value!r}. "
                "Hint: pass a number such as 0.5."
            )


def check_positive(**arguments: float) -> None:
    """Raise ValueError unless every argument is a positive, finite number."""
    for name, value in arguments.items():
        if not _is_number(value) or not 0 < value < 1e30:
            raise ValueError(
                f"Expected a positive, finite number for `{name}`. Received: {name}={value!r}. "
                "Hint: pass a number above 0, such as 1.0."
            )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
