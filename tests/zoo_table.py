"""Checks every model of the zoo and prints the table of docs/zoo.md.

    python tests/zoo_table.py --small > docs/zoo.md

Without --small it checks keras.applications too. With names of models as arguments it checks only
these.
"""

import os
import sys
import tempfile
import traceback
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

_TEXT = """# The zoo

The zoo is a set of ordinary Keras models that were not written for this library. This page lists
the checks that each of them passes.
`python tests/zoo_table.py --small > docs/zoo.md` writes this page in a quarter of an hour. Without
`--small` it checks the models of `keras.applications` too. The models are in `tests/zoo.py` and
the checks in `tests/zoo_checks.py`. `pytest` runs the quick checks on all models except
`keras.applications`, and the slow checks on a few. `pytest --zoo` runs all checks on all models.
"""


def main() -> int:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import zoo
    import zoo_checks

    checks = zoo_checks.CHECKS
    print(_TEXT)
    for name, check in checks.items():
        print(f"- **{name}**: {check.__doc__.splitlines()[0]}")
    print(f"\n| model | {' | '.join(checks)} | passed |")
    print("|---" * (len(checks) + 2) + "|")
    failures = 0
    notes = {}
    names = sys.argv[1:] or list(zoo.ZOO)
    if names == ["--small"]:
        names = [name for name, entry in zoo.ZOO.items() if not entry.large]
    for model in names:
        cells = []
        for check in checks.values():
            try:
                with tempfile.TemporaryDirectory() as folder:
                    reason = check(zoo_checks.subject(model), Path(folder))
            except Exception:
                traceback.print_exc()
                cells.append("**fails**")
                failures += 1
            else:
                cells.append("yes" if reason is None else _footnote(notes, reason))
        passed, due = cells.count("yes"), cells.count("yes") + cells.count("**fails**")
        print(f"| `{model}` | {' | '.join(cells)} | {passed} of {due} |", flush=True)
    print()
    for reason, mark in notes.items():
        print(f"- {mark}: does not apply: {reason}.")
    return int(failures > 0)


def _footnote(notes: dict[str, str], reason: str) -> str:
    return notes.setdefault(reason, f"({len(notes) + 1})")


if __name__ == "__main__":
    sys.exit(main())
