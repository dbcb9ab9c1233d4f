"""An append-only file of records. A record counts once it is on disk."""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from tfp_bayes._plumbing.files import sync_folder


class Journal:
    """JSON records, one per line, each with a checksum.

    A line that is incomplete, because the process was killed, does not count; the next `append`
    removes it. Only one process may append, see `Lock`. Any process may read.

    Args:
        path: Path of the file. The first `append` creates it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._size = 0  # bytes of complete lines

    def read(self) -> list[dict | None]:
        """Return all records, with None in place of a damaged one."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        self._size = content.rfind(b"\n") + 1
        return [_decode(line) for line in content[: self._size].split(b"\n")[:-1]]

    def append(self, records: Sequence[dict]) -> None:
        """Append records. They are on disk when this method returns.

        Raises:
            OSError: If they cannot be written, for example because the disk is full. Then none of
                the records count.
        """
        new = not self.path.exists()
        if new and self._size:
            raise FileNotFoundError(
                f"Expected {self.path}, which holds answers. Received: the file is missing now. "
                "Hint: restore it."
            )
        with self.path.open("ab") as file:
            file.truncate(self._size)
            try:
                file.write(b"".join(map(_encode, records)))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), self._size)
                raise
            size = os.fstat(file.fileno()).st_size
        if new:
            sync_folder(self.path.parent)
        self._size = size

    @property
    def is_empty(self) -> bool:
        """Whether the journal has no records."""
        return self._size == 0

    @property
    def is_current(self) -> bool:
        """Whether no other process has appended since the last read or append of this one."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._size)
                return b"\n" not in file.read() and file.tell() >= self._size
        except FileNotFoundError:
            return self._size == 0


def _encode(record: dict) -> bytes:
    text = json.dumps(record)
    return f'{text[:-1]}, "check": "{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def _decode(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
        check = record.pop("check")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return record if check == f"{zlib.crc32(json.dumps(record).encode()):08x}" else None
