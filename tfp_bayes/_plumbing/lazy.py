"""Packages whose contents are imported on first use.

TensorFlow and SciPy take seconds to import, and parts of the command line do not need them.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_contents(
    package: str, names: Sequence[str], defined_in: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions `__getattr__` and `__dir__` of a package.

    Args:
        package: `__name__` of the package.
        names: Public names of the package, its `__all__`.
        defined_in: For each name that is not a submodule, the submodule that defines it.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{defined_in.get(name, name)}")
        return getattr(module, name) if name in defined_in else module

    def list_names() -> list[str]:
        return sorted(names)

    return get, list_names
