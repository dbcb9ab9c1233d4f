"""Registration of the library's classes with Keras, at once or as soon as Keras is imported.

`keras.models.load_model` finds a class of ours only if the module that registers it has been
imported. The package imports its parts lazily, because TensorFlow takes seconds and
`tfp-bayes --help` should not; so the parts are imported together with Keras.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

# The parts with classes that a saved model can name.
_PARTS = ("layers", "losses", "metrics", "models", "networks")


def register_with_keras() -> None:
    """Registers every class that a saved model can name, now or when Keras is imported."""
    if "keras" in sys.modules:
        _import_parts()
    else:
        sys.meta_path.insert(0, _AfterKeras())


def _import_parts() -> None:
    importlib.import_module("tfp_bayes._plumbing.backend")  # says so if it is not TensorFlow
    for part in _PARTS:
        importlib.import_module(f"tfp_bayes.{part}")


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Finds Keras as Python does, and has the parts imported once Keras has been."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("keras")
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _import_parts()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
