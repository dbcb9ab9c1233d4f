"""A lock for one writer at a time: an operating system lock on a file that names its holder."""

import contextlib
import datetime
import errno
import json
import os
import socket
import warnings
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

_FAR = 2**30  # position of the locked byte on Windows, beyond the text, which stays readable
_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)


class LockedError(OSError):
    """Raised if another process holds the lock."""


class Lock:
    """An exclusive lock of a process, held until it is released or garbage-collected.

    The operating system releases the lock when the process ends, even by a kill, so a lock is
    never stale. If one process makes several locks on a path, the last one acquired is held. The
    lock file is not deleted.

    Args:
        path: Path of the lock file, created if necessary. It tells other processes who holds the
            lock.
        what: The locked resource, for the error.
    """

    _held: "weakref.WeakValueDictionary[str, Lock]" = weakref.WeakValueDictionary()

    def __init__(self, path: Path, what: Path):
        self.path = path
        self.what = what
        self._descriptor: int | None = None
        self._process = 0

    @property
    def held(self) -> bool:
        """Whether this process holds the lock. A child process does not inherit it."""
        return self._descriptor is not None and self._process == os.getpid()

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            LockedError: If another process holds it. The error names that process.
        """
        if self.held:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        key = os.path.realpath(self.path)
        other = Lock._held.get(key)
        if other is not None and other.held:
            self._descriptor, other._descriptor = other._descriptor, None
        else:
            self._descriptor = self._open()
        self._process = os.getpid()
        Lock._held[key] = self

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)  # closing the file releases the lock
            self._descriptor = None

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.release()

    def _open(self) -> int:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in _TAKEN:
                os.close(descriptor)
                raise self._refusal() from None
            # Some network file systems do not support locks.
            warnings.warn(
                f"{self.what} cannot be locked ({error}): run only one process that writes there.",
                stacklevel=4,
            )
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # on a full disk the lock is held nevertheless
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(holder).encode())
        return descriptor

    def _refusal(self) -> LockedError:
        try:
            holder = json.loads(self.path.read_text())
            who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process"
        return LockedError(
            f"Expected to be the only writer of {self.what}. Received: it is in use by {who}. "
            "Hint: stop that process first (Ctrl-C; its work is saved), or use another folder."
        )


def lock_of(path: Path) -> Lock:
    """Return the lock on a checkpoint and its journal. The lock file is next to the checkpoint."""
    return Lock(path.with_name(f"{path.name}.lock"), path)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    os.lseek(descriptor, _FAR, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    os.lseek(descriptor, 0, os.SEEK_SET)
