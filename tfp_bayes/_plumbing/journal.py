"""An append-only file of records, each on the disk before it counts."""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from tfp_bayes._plumbing.files import sync_folder


class Journal:
    """JSON records, one a line, each with a checksum.

    A line that was not completed, because the process was killed, does not count and is cut by
    the next `append`. One process may append, see `Lock`; any may read.

    Args:
        path: The file, made by the first `append`.
    """

    def __init__(self, path: Path):
        self.path = path
        self._size = 0  # bytes that count

    def read(self) -> list[dict | None]:
        """Returns all records, None for each that is damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        self._size = content.rfind(b"\n") + 1
        return [_decode(line) for line in content[: self._size].split(b"\n")[:-1]]

    def append(self, records: Sequence[dict]) -> None:
        """Appends records; they are on the disk when this returns.

        Raises:
            OSError: If they cannot be written, such as on a full disk. None counts then.
        """
        new = not self.path.exists()
        if new and self._size:
            raise FileNotFoundError(
                f"Expected {self.path}, which holds answers. Received: no such file any more. "
                "Hint: put it back."
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
        """Whether there is no record."""
        return self._size == 0

    @property
    def is_current(self) -> bool:
        """Whether no other process has appended since this one has read or appended."""
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
