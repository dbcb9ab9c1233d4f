"""Checks of single arguments."""

from numbers import Integral


def check_integers(least: int, **arguments: object) -> None:
    """Raises ValueError unless every argument is an integer of at least `least`."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(
                f"Expected an integer of at least {least} for `{name}`. "
                f"Received: {name}={value!r}. Hint: a whole number, such as {max(least, 10)}."
            )
