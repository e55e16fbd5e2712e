"""Bytes from a repository: over HTTP(S) from a static server, or from a folder such as a stick.

Nothing here is trusted: every read has a limit given before it starts, and signatures and hashes are checked by the
caller (``headland_edge.trust``). Over HTTP a download that breaks off goes on where it stopped (Range), and a day's
bytes are booked on disk before they are read, so that no crash and no power cut lets a device spend more than allowed.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from headland_edge.budget import Budget
from headland_edge.durable import write_bytes

TIMEOUT_S = 30.0
MAX_SECONDS = 1800.0
"""For one file; what came by then is kept."""
CHUNK = 64 * 1024
_GRANULE = 256 * 1024
_BROKEN = (OSError, http.client.HTTPException)


class FetchError(Exception):
    """Bytes did not come; the message says from where and why."""


class OfflineError(FetchError):
    """The repository cannot be reached now; try again later."""


class MissingError(FetchError):
    """The repository has no such file."""


class LengthError(FetchError):
    """More bytes than the signed length, or not those of the signed hash."""


class BudgetError(FetchError):
    """The day's bytes are spent; what came is kept and tomorrow goes on from there."""


class Source(Protocol):
    """A repository's folder."""

    bytes_read: int
    """Bytes that came so far."""

    def read(self, path: str, limit: int) -> bytes:
        """A small file of at most ``limit`` bytes. Raises FetchError."""

    def download(self, path: str, to: Path, length: int, sha256: str) -> None:
        """A file of known length and hash, to ``to``; resumes from ``to`` + ``.part``. Raises FetchError."""


class FolderSource:
    """A repository in a folder: a stick, a shared drive. Costs no bytes of the day."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bytes_read = 0

    def read(self, path: str, limit: int) -> bytes:
        """See ``Source``."""
        with self._open(path) as file:
            data = file.read(limit + 1)
        self.bytes_read += len(data)
        if len(data) > limit:
            raise LengthError(f"{self._folder / path}: longer than {limit} bytes")
        return data

    def download(self, path: str, to: Path, length: int, sha256: str) -> None:
        """See ``Source``."""
        data = self.read(path, length)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise LengthError(f"{self._folder / path}: not the file that was signed; make the stick again")
        write_bytes(to, data)

    @contextmanager
    def _open(self, path: str) -> Iterator[IO[bytes]]:
        _check_path(path)
        if not self._folder.is_dir():
            raise OfflineError(f"{self._folder}: no such folder now; is the stick in?")
        file = self._folder / path
        inside = self._folder.resolve()
        if not file.resolve().is_relative_to(inside) or not file.is_file():
            raise MissingError(f"{file}: is not there")
        try:
            with file.open("rb") as opened:
                yield opened
        except OSError as error:
            raise OfflineError(f"{file}: cannot be read ({error.strerror})") from None


class HttpSource:
    """A repository on a static file server.

    Args:
        url: of its folder, https:// (http:// on loopback only).
        budget: of the day.
        timeout_s: without a byte before giving up.
        max_seconds: for one file.
    """

    def __init__(
        self, url: str, budget: Budget, *, timeout_s: float = TIMEOUT_S, max_seconds: float = MAX_SECONDS
    ) -> None:
        check_url(url)
        self._url = url if url.endswith("/") else url + "/"
        self._budget = budget
        self._timeout_s = timeout_s
        self._max_seconds = max_seconds
        self.bytes_read = 0
        self._opener = urllib.request.build_opener(_CarefulRedirects())

    def read(self, path: str, limit: int) -> bytes:
        """See ``Source``."""
        parts: list[bytes] = []
        with self._get(path, 0) as (response, _):
            for chunk in self._chunks(response, limit, path):
                parts.append(chunk)
        return b"".join(parts)

    def download(self, path: str, to: Path, length: int, sha256: str) -> None:
        """See ``Source``."""
        part = to.with_name(to.name + ".part")
        to.parent.mkdir(parents=True, exist_ok=True)
        if part.exists() and part.stat().st_size > length:
            part.unlink()
        have = part.stat().st_size if part.exists() else 0
        if have < length:
            self._continue(path, part, have, length)
        if part.stat().st_size < length:
            raise OfflineError(f"{self._url}{path}: broke off at {part.stat().st_size} of {length} bytes")
        with part.open("rb") as file:
            told = hashlib.file_digest(file, "sha256").hexdigest()
        if told != sha256:
            part.unlink()
            raise LengthError(f"{self._url}{path}: not the bytes that were signed; thrown away")
        part.replace(to)

    def _continue(self, path: str, part: Path, have: int, length: int) -> None:
        with self._get(path, have) as (response, start), part.open("r+b" if have else "wb") as file:
            file.truncate(start)
            file.seek(start)
            try:
                for chunk in self._chunks(response, length - start, path):
                    file.write(chunk)
            except LengthError:
                file.truncate(0)
                raise
            finally:
                file.flush()
                os.fsync(file.fileno())

    @contextmanager
    def _get(self, path: str, start: int) -> Iterator[tuple[http.client.HTTPResponse, int]]:
        """The response and the position its first byte has in the file."""
        _check_path(path)
        self._need_budget(path)
        url = self._url + urllib.parse.quote(path)
        headers = {"Accept-Encoding": "identity", "User-Agent": "headland-edge"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            response = self._opener.open(urllib.request.Request(url, headers=headers), timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (403, 404):
                raise MissingError(f"{url}: the server has no such file ({error.code})") from None
            raise OfflineError(f"{url}: the server says {error.code}") from None
        except _BROKEN as error:
            raise OfflineError(f"{url}: cannot be reached ({_why(error)})") from None
        with response:
            if response.headers.get_content_type() == "text/html":  # no file of a repository is one
                raise OfflineError(f"{url}: a web page came instead; does this network want a login?")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise LengthError(f"{url}: the server packs its files; serve them as they are")
            yield response, _start(response, start)

    def _chunks(self, response: http.client.HTTPResponse, limit: int, path: str) -> Iterator[bytes]:
        """All bytes of the response, booked before they are read. Raises LengthError past ``limit``."""
        until = time.monotonic() + self._max_seconds
        told = _told_length(response)
        if told is not None and told > limit:
            raise LengthError(f"{self._url}{path}: {told} bytes, longer than the {limit} it may have")
        came = booked = 0
        try:
            while came != told:
                if came == booked:
                    self._need_budget(path)
                    granule = min(_GRANULE, self._budget.left, limit + 1 - came)
                    self._budget.book(granule)
                    booked += granule
                try:
                    chunk = response.read1(min(CHUNK, booked - came))
                except _BROKEN as error:
                    raise OfflineError(f"{self._url}{path}: broke off ({_why(error)})") from None
                if not chunk and told is not None:
                    raise OfflineError(f"{self._url}{path}: broke off at {came} of {told} bytes")
                if not chunk:
                    return
                came += len(chunk)
                self.bytes_read += len(chunk)
                if came > limit:
                    raise LengthError(f"{self._url}{path}: longer than the {limit} bytes it may have")
                yield chunk
                if time.monotonic() > until:
                    raise OfflineError(f"{self._url}{path}: too slow, {came} bytes in {self._max_seconds:.0f} s")
        finally:
            if came < booked:
                self._budget.book(came - booked)

    def _need_budget(self, path: str) -> None:
        if self._budget.left == 0:
            raise BudgetError(f"{path}: today's bytes are spent; goes on tomorrow (updates.daily_bytes in device.toml)")


class _CarefulRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a server's redirect to where the device may ask, and nowhere else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """See urllib."""
        try:
            check_url(newurl)
        except ValueError as error:
            raise OSError(f"redirected to where it may not go: {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_url(url: str) -> None:
    """Raise ValueError unless ``url`` is https://, or http:// on this very machine."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or not _is_loopback(parts.hostname or ""):
        raise ValueError(f"updates.url: {url!r}: give https://… (http:// is for loopback only)")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_path(path: str) -> None:
    if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise MissingError(f"{path!r}: no path inside a repository")


def _told_length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _start(response: http.client.HTTPResponse, asked: int) -> int:
    """Where the body begins: a server that ignores the range sends all of the file again."""
    if response.status != 206:
        return 0
    if not asked or not response.headers.get("Content-Range", "").startswith(f"bytes {asked}-"):
        raise LengthError("the server answered another range than asked; it cannot be used")
    return asked


def _why(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)[:100]
