"""Time functions that take turns, so that a drift of the machine's speed affects all equally."""

import time
from collections.abc import Callable, Mapping


def take_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each function in each turn, after a first turn that traces."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds
