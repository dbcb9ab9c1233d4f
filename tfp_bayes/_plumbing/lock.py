"""One writer at a time: a lock of the operating system on a file that names who holds it."""

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

_FAR = 2**30  # the byte that is locked on Windows, beyond the text, which others read
_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)


class LockedError(OSError):
    """Another process writes there."""


class Lock:
    """The exclusive right of a process to write, until it is released, collected or killed.

    The operating system ends the right with the process, however that ends, so no lock is stale.
    Of several locks of one process on a path, the one acquired last is held. The file stays.

    Args:
        path: File of the lock, made if need be; it tells other processes who holds it.
        what: What is locked, for the error.
    """

    _held: "weakref.WeakValueDictionary[str, Lock]" = weakref.WeakValueDictionary()

    def __init__(self, path: Path, what: Path):
        self.path = path
        self.what = what
        self._descriptor: int | None = None
        self._process = 0

    @property
    def held(self) -> bool:
        """Whether this lock is held; a child process inherits no lock."""
        return self._descriptor is not None and self._process == os.getpid()

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            LockedError: If another process holds it; says which.
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
        """Gives the lock back, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)  # which ends the lock
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
            # Some network file systems have no locks.
            warnings.warn(
                f"{self.what} cannot be locked ({error}): let one process at a time write there.",
                stacklevel=4,
            )
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # a full disk: held all the same
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
            "Hint: stop that one first (Ctrl-C; what it has is saved), or use another folder."
        )


def lock_of(path: Path) -> Lock:
    """Returns the lock on a checkpoint and what belongs to it, a file beside it."""
    return Lock(path.with_name(f"{path.name}.lock"), path)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    os.lseek(descriptor, _FAR, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    os.lseek(descriptor, 0, os.SEEK_SET)
