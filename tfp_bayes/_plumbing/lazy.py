"""Packages whose contents are imported when they are used.

TensorFlow and SciPy take seconds to import, and the command line reads some modules without them.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_contents(
    package: str, names: Sequence[str], defined_in: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` of a package.

    Args:
        package: Its `__name__`.
        names: Its public names, `__all__`.
        defined_in: Submodule that defines each name which is no submodule itself.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{defined_in.get(name, name)}")
        return getattr(module, name) if name in defined_in else module

    def list_names() -> list[str]:
        return sorted(names)

    return get, list_names
