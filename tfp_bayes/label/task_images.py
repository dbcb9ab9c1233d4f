"""Images of Label Studio's tasks, wherever a task says that its image is."""

import json
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfp_bayes.datasets.image_files import UnreadableImageError, decode

_LOCAL_FILES = "/data/local-files/"
_MOST_BYTES = 2**26
_SECONDS = 20


@dataclass
class LabelStudio:
    """An instance of Label Studio, and what it lets its files be read with.

    Attributes:
        url: Such as "http://localhost:8080".
        key: An access token, of the older kind or a personal one; empty without one.
    """

    url: str = ""
    key: str = ""

    def headers(self) -> dict[str, str]:
        """Returns the header that a request for a file carries."""
        if not self.key:
            return {}
        if self.key.count(".") != 2:
            return {"Authorization": f"Token {self.key}"}
        # A personal access token is a JWT that is exchanged for one of five minutes.
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/api/token/refresh/",
            json.dumps({"refresh": self.key}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return {"Authorization": f"Bearer {json.load(answer)['access']}"}

    def holds(self, address: str) -> bool:
        """Tells whether an address is on this instance, which alone may see the key."""
        own, other = urllib.parse.urlsplit(self.url), urllib.parse.urlsplit(address)
        return bool(own.netloc) and (own.scheme, own.netloc) == (other.scheme, other.netloc)


class TaskImages:
    """Reads images by the address in a task.

    An address is a URL (http, https or data), a file that Label Studio keeps ("/data/upload/..."),
    or one of its local files ("/data/local-files/?d=..."), which are read from the disk if their
    root is known here and are asked for from Label Studio otherwise.

    Args:
        local_root: Folder that Label Studio calls LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, or None.
    """

    def __init__(self, local_root: str | Path | None = None):
        self.local_root = None if local_root is None else Path(local_root).resolve()

    def read(self, address: str, shape: tuple[int, int, int], studio: LabelStudio) -> np.ndarray:
        """Returns an image (H, W, C) uint8, resized and converted if need be.

        Args:
            address: What the task says.
            shape: (H, W, C).
            studio: Where the task comes from.

        Raises:
            ValueError: If the address leads to no image, or to none that may be read.
            OSError: If it cannot be reached.
        """
        height, width, channels = shape
        if not isinstance(address, str) or not address:
            raise _unknown(address)
        if address.startswith(_LOCAL_FILES) and self.local_root is not None:
            return decode(self._local(address), (height, width), channels)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "image")
            path.write_bytes(_fetch(address, studio))
            try:
                return decode(path, (height, width), channels)
            except UnreadableImageError as error:
                raise UnreadableImageError(str(error).replace(str(path), address[:200])) from None

    def _local(self, address: str) -> Path:
        """Returns the file of a local address, below the root."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(address).query)
        path = Path(self.local_root or ".", query.get("d", [""])[0]).resolve()
        if self.local_root not in path.parents:
            raise ValueError(
                f"Expected a file below {self.local_root}. Received: {address}. "
                "Hint: --local-root is LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT of Label Studio."
            )
        return path


def _fetch(address: str, studio: LabelStudio) -> bytes:
    if address.startswith("/"):
        if not studio.url:
            raise _unknown(address)
        address = studio.url.rstrip("/") + address
    if urllib.parse.urlsplit(address).scheme not in ("http", "https", "data"):
        raise _unknown(address)
    request = urllib.request.Request(urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]"))
    if studio.holds(address):
        for name, value in studio.headers().items():
            request.add_unredirected_header(name, value)  # storages that it leads to see no key
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            content = answer.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        hint = "set LABEL_STUDIO_API_KEY" if error.code in (401, 403) else "open it in a browser"
        raise ValueError(
            f"Expected an image at {address[:200]}. Received: status {error.code}. Hint: {hint}."
        ) from None
    if len(content) > _MOST_BYTES:
        raise ValueError(
            f"Expected an image of at most {_MOST_BYTES} bytes at {address[:200]}. "
            "Received: more. Hint: resize it."
        )
    return content


def _unknown(address: object) -> ValueError:
    return ValueError(
        "Expected the address of an image: http, https, data, /data/upload/... or "
        f"/data/local-files/?d=.... Received: {str(address)[:200]!r}. Hint: cloud storages need "
        "presigned URLs, which Label Studio's storage settings switch on."
    )


def studio_of_environment() -> LabelStudio:
    """Returns the instance that LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY name, if any."""
    url, key = (os.environ.get(f"LABEL_STUDIO_{name}", "") for name in ("URL", "API_KEY"))
    if key and not url:
        raise ValueError(
            "Expected LABEL_STUDIO_URL with LABEL_STUDIO_API_KEY. Received: none. "
            "Hint: the key is sent to that address and to no other."
        )
    return LabelStudio(url, key)
