"""Arguments of an earlier release that have moved into an object, for one release."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

Made = TypeVar("Made")


def as_settings(given: Any, made: type[Made], name: str) -> Made:
    """Returns an object of settings from itself, a dictionary of its arguments, or None.

    Raises:
        ValueError: If it is none of these, or an argument is unknown.
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
    """Rule by which an argument takes in old ones.

    Attributes:
        function: Function of the argument, as it was given, and of the old ones by new names.
        spelled: How that is written now.
    """

    function: Callable[..., Any]
    spelled: str


def accept_moved(
    moved: Mapping[str, tuple[str, str]], joins: Mapping[str, Join]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Lets a constructor take the keywords of the release before, with a warning.

    Args:
        moved: The new argument of each old keyword, and its name in there.
        joins: For new arguments that may be given beside the old ones which moved there. To others
            these become a dictionary of settings, and both together are refused.
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
    """Returns a new argument, made of old ones."""
    if new in joins:
        return joins[new].function(given, **values)
    if given is None:
        return values
    raise ValueError(
        f"Expected either `{new}` or what has moved there. Received: {new}={given!r}, and its "
        f"arguments {sorted(values)} by their old names. Hint: {_spell(new, values, joins)}."
    )


def _spell(new: str, values: Mapping[str, Any], joins: Mapping[str, Join]) -> str:
    """Returns how arguments are written now."""
    if new in joins:
        return joins[new].spelled
    return f"{new}={new.title()}({', '.join(f'{name}=...' for name in values)})"
