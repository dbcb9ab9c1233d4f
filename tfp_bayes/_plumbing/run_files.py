"""Files of a run: a journal of answers, a checkpoint, and one lock for both."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tfp_bayes._plumbing import checkpoint
from tfp_bayes._plumbing.checkpoint import State
from tfp_bayes._plumbing.files import remove_unfinished
from tfp_bayes._plumbing.journal import Journal
from tfp_bayes._plumbing.lock import LockedError, lock_of


class Loaded(NamedTuple):
    """Content of the disk.

    Attributes:
        state: State to continue from, or None.
        before: Answers that the state contains.
        since: Answers that were given after it.
    """

    state: State | None
    before: list[dict]
    since: list[dict]


class Storage:
    """Journal and checkpoint of one run, which one process at a time may write.

    The journal `PATH.answers.jsonl` holds every answer, a dictionary, and is the truth. The
    checkpoint at `path` is a state in which the first answers are contained, and saves the time
    to train again. The first write takes the lock `PATH.lock`; reading takes none.

    Args:
        path: The checkpoint; None keeps answers in memory.
        identity: What tells this run from another, by name, plain JSON.
    """

    def __init__(self, path: Path | None, identity: dict):
        self.path = path
        self.identity = identity
        self._next = 0  # number of the next answer
        if path is not None:
            self._journal = Journal(path.with_name(f"{path.name}.answers.jsonl"))
            self._lock = lock_of(path)
            self._stamp: tuple | None = None  # of the checkpoint as it was read or written
            self._is_damaged = False

    def load(self) -> Loaded:
        """Returns the state to go on from, and the answers before and since, in order.

        No state is returned for a new run, and for one whose checkpoint is damaged: all answers
        are then given since.

        Raises:
            ValueError: If the files are of another run, or the checkpoint is damaged and there is
                no journal.
        """
        if self.path is None:
            return Loaded(None, [], [])
        # Before the journal: a writer may add to both meanwhile, and answers come first.
        self._stamp = _stamp(self.path)
        loaded = self._load_checkpoint(self.path)
        lines = self._journal.read()
        if lines and lines[0] is not None:
            checkpoint.check_same_configuration(
                self.identity, lines[0].get("identity", {}), self.path
            )
        if isinstance(loaded, checkpoint.DamagedError):
            if not lines:
                raise loaded
            self._is_damaged = True
            warnings.warn(
                f"{loaded} The run is restored from {self._journal.path.name}, its rounds are "
                "trained again, and the damaged file is kept.",
                stacklevel=5,
            )
            loaded = None
        contained = 0 if loaded is None else loaded.record["num_answers"]
        before, since = self._answers(lines, contained)
        return Loaded(loaded, before, since)

    def _load_checkpoint(self, path: Path) -> State | checkpoint.DamagedError | None:
        if self._stamp is None:
            return None
        try:
            state = checkpoint.load(path)
        except checkpoint.DamagedError as error:
            return error
        checkpoint.check_same_configuration(self.identity, state.record["identity"], path)
        return state

    def _answers(
        self, lines: Sequence[dict | None], contained: int
    ) -> tuple[list[dict], list[dict]]:
        """Returns the answers of a journal: the first so many, and the others."""
        known = {line.pop("number"): line for line in lines[1:] if line is not None}
        self._next = max([contained, *(number + 1 for number in known)])
        missing = [number for number in range(contained, self._next) if number not in known]
        damaged = [number for number, line in enumerate(lines, start=1) if line is None]
        if missing or damaged:
            warnings.warn(
                f"Expected {self._journal.path} whole. Received: damaged lines {damaged}, "
                f"{len(missing)} answers lost. Hint: put an older copy back, or go on without.",
                stacklevel=6,
            )
        first = [known[number] for number in sorted(known) if number < contained]
        return first, [known[number] for number in sorted(known) if number >= contained]

    def acquire(self) -> None:
        """Takes the right to write, and keeps it until `release` or the end of the process.

        Raises:
            LockedError: If another process has it, or another learner has written since `load`.
        """
        if self.path is None or self._lock.held:
            return
        self._lock.acquire()
        if not self._journal.is_current or _stamp(self.path) != self._stamp:
            self._lock.release()
            raise LockedError(
                f"Expected {self.path} as it was read. Received: another learner has written "
                "there since. Hint: make this learner anew; it continues from there."
            )
        remove_unfinished(self.path.parent)
        if self._journal.is_empty:
            self._journal.append([{"identity": self.identity}])

    def release(self) -> None:
        """Gives the right to write back."""
        if self.path is not None:
            self._lock.release()

    def append(self, answers: Sequence[dict]) -> None:
        """Adds answers, which are on the disk when this returns.

        Raises:
            OSError: If they cannot be written; none counts then.
        """
        if self.path is not None:
            self.acquire()
            numbered = enumerate(answers, start=self._next)
            self._journal.append([{"number": number, **answer} for number, answer in numbered])
        self._next += len(answers)

    def save(self, state: State) -> None:
        """Writes the checkpoint: a state that contains all answers so far."""
        if self.path is None:
            return
        self.acquire()
        if self._is_damaged:
            self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))
            self._is_damaged = False
        more = {"identity": self.identity, "num_answers": self._next}
        checkpoint.save(self.path, State(state.arrays, {**state.record, **more}))
        self._stamp = _stamp(self.path)


def _stamp(path: Path) -> tuple | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
