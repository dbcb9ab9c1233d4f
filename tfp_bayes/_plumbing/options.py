"""Options defined once, as dataclass fields, for the command line, files and Python calls."""

import argparse
import dataclasses
import functools
import json
import math
import types
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, get_args

NONE = "none"  # the word for None in files


def option(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    absent: str = NONE,
    metavar: str | None = None,
) -> Any:
    """Describe a field of a dataclass.

    Args:
        default: Default value.
        help: One line of help for the command line.
        choices: Allowed names, listed in the help.
        least: Smallest allowed number.
        most: Largest allowed number.
        above: Exclusive lower bound of numbers.
        absent: Word that means None, if None is allowed.
        metavar: Placeholder for the value in the help.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "least": least,
        "most": most,
        "above": above,
        "absent": absent,
        "metavar": metavar,
    }
    return dataclasses.field(default=default, metadata=metadata)


def check_fields(config: Any) -> None:
    """Convert every field of a dataclass to a plain type. Raise ValueError for an invalid one."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        plain = _plain(value, _types(field))
        if plain is _WRONG or not _in_range(plain, field.metadata):
            raise ValueError(
                f"Expected {_expected(field)} for `{field.name}`. "
                f"Received: {field.name}={value!r}. "
                f"Hint: `{field.name}` means: {field.metadata['help']}."
            )
        object.__setattr__(config, field.name, plain)


def from_record(config_class: type, record: object, where: str) -> Any:
    """Make a dataclass from the contents of a file.

    Args:
        config_class: A dataclass of `option` fields.
        record: Values by name. "none", or the `absent` word of an option, means None.
        where: Name of the file, for errors.

    Raises:
        ValueError: If a key is unknown or a value is invalid. The error names `where`.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    if not isinstance(record, Mapping) or set(record) - set(fields):
        unknown = sorted(set(record) - set(fields)) if isinstance(record, Mapping) else record
        raise ValueError(
            f"Expected keys from {sorted(fields)} in {where}. Received: {unknown}. "
            "Hint: correct the name, or omit the key to use the default."
        )
    values = {name: _without_word(fields[name], value) for name, value in record.items()}
    try:
        return config_class(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error} (In {where}.)") from None


def add_options(
    parser: argparse.ArgumentParser, config_class: type, defaults: Mapping[str, Any]
) -> None:
    """Add one option per field to a parser. Omitted options are missing from its result.

    Args:
        parser: Parser of the command.
        config_class: A dataclass of `option` fields.
        defaults: Defaults of the command that replace those of some fields, shown in the help.
    """
    for field in dataclasses.fields(config_class):
        known = [str(name) for name in field.metadata["choices"]]
        default = defaults.get(field.name, field.default)
        default = field.metadata["absent"] if default is None else default
        listed = f": {', '.join(known)}" if known else ""
        extra = '; for one with arguments, {"name": ...}' if dict in _types(field) else ""
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=functools.partial(_from_text, field),
            default=argparse.SUPPRESS,
            metavar=field.metadata["metavar"] or ("NAME" if known else None),
            help=f"{field.metadata['help']}{listed}{extra} (default {default})",
        )


_WRONG = object()


def _types(field: dataclasses.Field) -> tuple[type, ...]:
    return get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)


def _plain(value: object, allowed: tuple[type, ...]) -> object:
    """Return a value as one of the allowed JSON types, or `_WRONG`."""
    if value is None:
        return None if types.NoneType in allowed else _WRONG
    if isinstance(value, bool):
        return value if bool in allowed else _WRONG
    if int in allowed and isinstance(value, Integral):
        return int(value)
    if float in allowed and isinstance(value, Real) and math.isfinite(value):
        return float(value)
    for kind in (str, dict):
        if kind in allowed and isinstance(value, kind):
            return value
    return _WRONG


def _in_range(value: object, limits: Mapping[str, Any]) -> bool:
    if not isinstance(value, (int, float)):
        # The code that builds an object from a dictionary checks its name.
        return not (isinstance(value, str) and limits["choices"]) or value in limits["choices"]
    least, most, above = limits["least"], limits["most"], limits["above"]
    return (
        (least is None or value >= least)
        and (most is None or value <= most)
        and (above is None or value > above)
    )


def _expected(field: dataclasses.Field) -> str:
    """Describe the allowed values of a field in words."""
    names = {int: "an integer", float: "a finite number", str: "a string", dict: "a dictionary"}
    limits, allowed = field.metadata, _types(field)
    if known := [str(name) for name in limits["choices"]]:
        text = f"one of {known}"
    else:
        text = " or ".join(names[kind] for kind in allowed if kind in names)
    if limits["least"] is not None and limits["most"] is not None:
        text += f" in [{limits['least']}, {limits['most']}]"
    elif limits["least"] is not None:
        text += f" of at least {limits['least']}"
    elif limits["above"] is not None:
        text += f" above {limits['above']}"
    return text + (" or None" if types.NoneType in allowed else "")


def _without_word(field: dataclasses.Field, value: object) -> object:
    """Return None for the words that mean None, and any other value unchanged."""
    words = (NONE, field.metadata["absent"])
    optional = types.NoneType in _types(field)
    return None if optional and isinstance(value, str) and value in words else value


def _from_text(field: dataclasses.Field, text: str) -> object:
    """Parse the text of an option on the command line."""
    if _without_word(field, text) is None:
        return None
    allowed = _types(field)
    try:
        if dict in allowed and text.startswith("{"):
            return json.loads(text)
        if str not in allowed:
            return int(text) if int in allowed else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"Expected {_expected(field)}. Received: {text} ({error})."
        ) from None
    return text
