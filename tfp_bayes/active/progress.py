"""What a learner does at the moment, printed."""

import sys
import time

from tfp_bayes.active.round import Round

# What a learner does once a stage is over.
NEXT_STAGE = {
    "start": "training",
    "propose": "labelling",
    "tell": "training",
    "fit": "evaluating",
    "evaluate": "scoring the pool",
}


class Progress:
    """Prints one line for each round and, on a terminal, the stage of the round in progress.

    Args:
        num_rounds: Rounds that are planned.
    """

    def __init__(self, num_rounds: int):
        self.num_rounds = num_rounds
        self.start = time.perf_counter()
        self.terminal = sys.stdout.isatty()

    def on_stage(self, stage: str) -> None:
        """Shows what follows a stage."""
        if self.terminal and stage in NEXT_STAGE:
            seconds = time.perf_counter() - self.start
            print(f"\r\x1b[K{NEXT_STAGE[stage]} ... ({seconds:.0f} s)", end="", flush=True)

    def on_round(self, row: Round) -> None:
        """Prints a round that is complete."""
        clear = "\r\x1b[K" if self.terminal else ""
        print(clear + row.describe(self.num_rounds), flush=True)
