"""Checks every model of the zoo and prints the table of docs/zoo.md.

    python tests/zoo_table.py --small > docs/zoo.md

Without --small keras.applications are checked too; names of models as arguments check these only.
"""

import os
import sys
import tempfile
import traceback
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

_TEXT = """# The zoo

Models as people write them, none of them for this library, and what was checked of each.
`python tests/zoo_table.py --small > docs/zoo.md` writes this page in a quarter of an hour; without
`--small` it checks the models of `keras.applications` too. `tests/zoo.py` holds the models and
`tests/zoo_checks.py` the checks. `pytest` runs the quick checks of all but `keras.applications` and
the slow ones of a few models, `pytest --zoo` everything.
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
        print(f"- {mark}: does not apply, {reason}.")
    return int(failures > 0)


def _footnote(notes: dict[str, str], reason: str) -> str:
    return notes.setdefault(reason, f"({len(notes) + 1})")


if __name__ == "__main__":
    sys.exit(main())
