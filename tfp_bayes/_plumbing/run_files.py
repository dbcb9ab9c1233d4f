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
    """Contents of the files of a run.

    Attributes:
        state: State to continue from, or None.
        before: Answers that the state contains.
        since: Answers given after the state was saved.
    """

    state: State | None
    before: list[dict]
    since: list[dict]


class Storage:
    """Journal and checkpoint of one run. Only one process at a time may write them.

    The journal `PATH.answers.jsonl` holds every answer, a dictionary, and is authoritative. The
    checkpoint at `path` is a state that contains the first answers; it avoids training again. The
    first write acquires the lock `PATH.lock`. Reading needs no lock.

    Args:
        path: Path of the checkpoint. None writes no files.
        identity: Named plain JSON values that identify this run.
    """

    def __init__(self, path: Path | None, identity: dict):
        self.path = path
        self.identity = identity
        self._next = 0  # number of the next answer
        if path is not None:
            self._journal = Journal(path.with_name(f"{path.name}.answers.jsonl"))
            self._lock = lock_of(path)
            self._stamp: tuple | None = None  # of the checkpoint when last read or written
            self._is_damaged = False

    def load(self) -> Loaded:
        """Return the state to continue from, and the answers before and after it, in order.

        The state is None for a new run, and for a run whose checkpoint is damaged. Then all
        answers are in `since`.

        Raises:
            ValueError: If the files belong to another run, or the checkpoint is damaged and there
                is no journal.
        """
        if self.path is None:
            return Loaded(None, [], [])
        # Read the checkpoint before the journal: a process that is writing appends its answers
        # to the journal first, so the journal then contains all answers of the checkpoint.
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
                "trained again, and the damaged file is not deleted.",
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
        """Return the first `contained` answers of a journal, and the others."""
        known = {line.pop("number"): line for line in lines[1:] if line is not None}
        self._next = max([contained, *(number + 1 for number in known)])
        missing = [number for number in range(contained, self._next) if number not in known]
        damaged = [number for number, line in enumerate(lines, start=1) if line is None]
        if missing or damaged:
            warnings.warn(
                f"Expected {self._journal.path} undamaged. Received: damaged lines {damaged}, "
                f"{len(missing)} answers lost. Hint: restore an older copy, or continue without "
                "these answers.",
                stacklevel=6,
            )
        first = [known[number] for number in sorted(known) if number < contained]
        return first, [known[number] for number in sorted(known) if number >= contained]

    def acquire(self) -> None:
        """Acquire the lock for writing, until `release` or the end of the process.

        Raises:
            LockedError: If another process holds it, or another learner has written since `load`.
        """
        if self.path is None or self._lock.held:
            return
        self._lock.acquire()
        if not self._journal.is_current or _stamp(self.path) != self._stamp:
            self._lock.release()
            raise LockedError(
                f"Expected {self.path} as it was read. Received: another learner has written "
                "there since. Hint: create this learner again; it continues from there."
            )
        remove_unfinished(self.path.parent)
        if self._journal.is_empty:
            self._journal.append([{"identity": self.identity}])

    def release(self) -> None:
        """Release the lock."""
        if self.path is not None:
            self._lock.release()

    def append(self, answers: Sequence[dict]) -> None:
        """Append answers to the journal. They are on disk when this method returns.

        Raises:
            OSError: If they cannot be written. Then none of them count.
        """
        if self.path is not None:
            self.acquire()
            numbered = enumerate(answers, start=self._next)
            self._journal.append([{"number": number, **answer} for number, answer in numbered])
        self._next += len(answers)

    def save(self, state: State) -> None:
        """Write the checkpoint, whose state must contain all answers so far."""
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
