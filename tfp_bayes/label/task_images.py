"""Images of Label Studio's tasks, read from the address in each task."""

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
_SECONDS = 20  # timeout of a request


@dataclass
class LabelStudio:
    """Address of a Label Studio instance, and the access token for its files.

    Attributes:
        url: Address, such as "http://localhost:8080".
        key: Access token, either a legacy token or a personal access token. Empty if there is none.
    """

    url: str = ""
    key: str = ""

    def headers(self) -> dict[str, str]:
        """Return the authorization header for requests of files, empty without a key."""
        if not self.key:
            return {}
        if self.key.count(".") != 2:
            return {"Authorization": f"Token {self.key}"}
        # A personal access token is a JWT, to be exchanged for a token that is valid five minutes.
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/api/token/refresh/",
            json.dumps({"refresh": self.key}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return {"Authorization": f"Bearer {json.load(answer)['access']}"}

    def holds(self, address: str) -> bool:
        """Return whether an address belongs to this instance; no other may receive the key."""
        own, other = urllib.parse.urlsplit(self.url), urllib.parse.urlsplit(address)
        return bool(own.netloc) and (own.scheme, own.netloc) == (other.scheme, other.netloc)


class TaskImages:
    """Reader of images by the address in a task.

    An address is a URL (http, https or data), a file that was uploaded to Label Studio
    ("/data/upload/..."), or one of its local files ("/data/local-files/?d=..."). Local files are
    read from disk if `local_root` is given, and requested from Label Studio otherwise.

    Args:
        local_root: Folder that Label Studio calls LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, or None.
    """

    def __init__(self, local_root: str | Path | None = None):
        self.local_root = None if local_root is None else Path(local_root).resolve()

    def read(self, address: str, shape: tuple[int, int, int], studio: LabelStudio) -> np.ndarray:
        """Return an image (H, W, C) uint8, resized and converted if necessary.

        Args:
            address: Address of the image in the task.
            shape: Shape (H, W, C) of the image to return.
            studio: Label Studio instance to which the task belongs.

        Raises:
            ValueError: If there is no image at the address, or it may not be read.
            OSError: If the address cannot be reached.
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
        """Return the path of a local file, which must be below the root."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(address).query)
        path = Path(self.local_root or ".", query.get("d", [""])[0]).resolve()
        if self.local_root not in path.parents:
            raise ValueError(
                f"Expected a file below {self.local_root}. Received: {address}. "
                "Hint: set --local-root to Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."
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
            request.add_unredirected_header(name, value)  # a storage it redirects to gets no key
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
            "Received: more. Hint: make the image smaller."
        )
    return content


def _unknown(address: object) -> ValueError:
    return ValueError(
        "Expected the address of an image: http, https, data, /data/upload/... or "
        f"/data/local-files/?d=.... Received: {str(address)[:200]!r}. Hint: for cloud storage, "
        "enable presigned URLs in Label Studio's storage settings."
    )


def studio_of_environment() -> LabelStudio:
    """Return the instance that LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY describe, if any."""
    url, key = (os.environ.get(f"LABEL_STUDIO_{name}", "") for name in ("URL", "API_KEY"))
    if key and not url:
        raise ValueError(
            "Expected LABEL_STUDIO_URL with LABEL_STUDIO_API_KEY. Received: none. "
            "Hint: the key is sent only to that address."
        )
    return LabelStudio(url, key)
