"""Support, for one release, for old arguments that have moved into a settings object."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

Made = TypeVar("Made")


def as_settings(given: Any, made: type[Made], name: str) -> Made:
    """Return a settings object, given the object, a dictionary of its arguments, or None.

    Raises:
        ValueError: If `given` is none of these, or an argument is unknown.
    """
    if given is None:
        return made()
    if isinstance(given, made):
        return given
    try:
        return made(**given)
    except TypeError as error:
        raise ValueError(
            f"Expected an object of type {made.__name__}, or a dictionary of its arguments, for "
            f"`{name}`. Received: {name}={given!r}. Hint: {error}."
        ) from None


class Join(NamedTuple):
    """Rule that merges old arguments into a new one.

    Attributes:
        function: Function that takes the new argument, as it was given, and the old arguments as
            keywords by their new names. Returns the merged argument.
        spelled: Code that shows how to write it now.
    """

    function: Callable[..., Any]
    spelled: str


def accept_moved(
    moved: Mapping[str, tuple[str, str]], joins: Mapping[str, Join]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a constructor accept the keywords of the previous release, with a warning.

    Args:
        moved: For each old keyword, the new argument and the name inside it.
        joins: Rules for new arguments that can be combined with old ones. Any other new argument
            becomes a dictionary of the old ones, and giving both is an error.
    """

    def decorate(constructor: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(constructor)
        def accepting(self: Any, *args: Any, **kwargs: Any) -> None:
            old = [name for name in kwargs if name in moved]
            groups: dict[str, dict[str, Any]] = {}
            for name in old:
                new, inside = moved[name]
                groups.setdefault(new, {})[inside] = kwargs.pop(name)
            spelled = [_spell(new, values, joins) for new, values in groups.items()]
            for new, values in groups.items():
                kwargs[new] = _join(new, kwargs.get(new), values, joins)
            if old:
                warnings.warn(
                    f"{type(self).__name__} accepts {', '.join(f'{name}=' for name in old)} for "
                    f"the last time in this release. Write {', '.join(spelled)}.",
                    FutureWarning,
                    stacklevel=2,
                )
            constructor(self, *args, **kwargs)

        return accepting

    return decorate


def _join(new: str, given: Any, values: dict[str, Any], joins: Mapping[str, Join]) -> Any:
    """Return the value of a new argument that is made from old ones."""
    if new in joins:
        return joins[new].function(given, **values)
    if given is None:
        return values
    raise ValueError(
        f"Expected either `{new}` or its old arguments, not both. Received: {new}={given!r}, and "
        f"{sorted(values)} by their old names. Hint: write {_spell(new, values, joins)}."
    )


def _spell(new: str, values: Mapping[str, Any], joins: Mapping[str, Join]) -> str:
    """Return code that shows how to write the arguments now."""
    if new in joins:
        return joins[new].spelled
    return f"{new}={new.title()}({', '.join(f'{name}=...' for name in values)})"
