"""Fetch one large file: resumed where it stopped, checked, and visible under its name only when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin, urlsplit

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
PROTOCOL_ERRORS = (http.client.HTTPException, OSError)

Progress = Callable[[int, "int | None"], None]  # (bytes so far, bytes in all if known)


class DownloadError(RuntimeError):
    """A file could not be had; the message says why and what to do."""


def download(url: str, target: Path, sha256: str | None = None, progress: Progress | None = None) -> str:
    """Fetch `url` to `target` and return the file's sha256.

    sha256: what it must be; None: anything. The bytes are kept in TARGET.part until they are complete and right, and a
    later call goes on from there. Raises DownloadError.
    """
    part = target.with_name(target.name + ".part")
    tag = part.with_name(part.name + ".tag")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, tag, progress)
        actual = sha256_of(part)
        tag.unlink(missing_ok=True)
        if sha256 is not None and actual != sha256:
            part.unlink()
            raise DownloadError(
                f"{url}: wrong checksum: expected sha256 {sha256}, got {actual}. What was fetched is removed; run the "
                f"command again. If it fails again, the publisher may have replaced the file"
            )
        os.replace(part, target)
    except OSError as error:
        raise DownloadError(f"cannot write '{target}': {error.strerror or error}") from error
    return actual


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def announced_sha256(url: str) -> str | None:
    """The sum that the Hugging Face Hub gives for its large files in X-Linked-Etag, before it redirects to its storage.

    None where there is none. Raises DownloadError if the server cannot be reached.
    """
    opener = urllib.request.build_opener(_NoRedirect)
    for _ in range(3):  # a renamed repository redirects within the hub first
        try:
            headers = opener.open(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).headers
        except urllib.error.HTTPError as error:
            headers = error.headers  # redirects arrive here; a missing file is reported by the download itself
        except PROTOCOL_ERRORS as error:
            raise _unreachable(url, error) from error
        etag = headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch("[0-9a-f]{64}", etag):
            return etag
        following = urljoin(url, headers.get("Location", url))
        if following == url or urlsplit(following).netloc != urlsplit(url).netloc:
            return None
        url = following
    return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args, **kwargs):
        return None


def _fetch(url: str, part: Path, tag: Path, progress: Progress | None) -> None:
    """Append to `part` what it lacks. `tag` holds the validator of the file that the part belongs to."""
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    response = _open(url, have, tag)
    if response is None:
        return
    with response:
        if response.status == 206:
            total = _total(response.headers.get("Content-Range", ""), have, url)
        else:  # all of it: the first time, or the file has changed, or the server cannot resume
            have, total = 0, _content_length(response)
            tag.write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
        _require_space(part, None if total is None else total - have)
        with part.open("ab" if have else "wb") as file:
            have = _copy(response, file, have, total, progress, url)
    if total is not None and have != total:
        raise DownloadError(
            f"{url}: the connection closed after {have} of {total} bytes; run the command again to go on"
        )


def _open(url: str, have: int, tag: Path) -> http.client.HTTPResponse | None:
    """Ask for the bytes from `have` on, if it is still the same file, else for all. None: the part is complete."""
    request = urllib.request.Request(url)
    validator = tag.read_text() if have else ""
    if validator:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing comes after the part
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return None
            return _open(url, 0, tag)
        raise DownloadError(
            f"{url}: the server answers {error.code} {error.reason}: the file has moved, or needs a login"
        ) from error
    except PROTOCOL_ERRORS as error:
        raise _unreachable(url, error) from error


def _copy(response, file, have: int, total: int | None, progress: Progress | None, url: str) -> int:
    while True:
        try:
            block = response.read(CHUNK)
        except PROTOCOL_ERRORS as error:
            raise DownloadError(
                f"{url}: the connection broke after {have} bytes ({error}); run the command again to go on"
            ) from error
        if not block:
            return have
        file.write(block)
        have += len(block)
        if progress is not None:
            progress(have, total)


def _total(content_range: str, have: int, url: str) -> int | None:
    """Size of the file from 'bytes FIRST-LAST/SIZE', which must start where the part ends."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    if match is None or int(match[1]) != have:
        raise DownloadError(f"{url}: the server resumes at the wrong place ({content_range!r}): delete the .part file")
    return None if match[2] == "*" else int(match[2])


def _content_length(response: http.client.HTTPResponse) -> int | None:
    length = response.headers.get("Content-Length")
    return None if length is None else int(length)


def _require_space(part: Path, missing: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing is not None and missing > free:
        raise DownloadError(f"'{part.parent}' has {free / 1e9:.2f} GB free, {missing / 1e9:.2f} GB more are needed")


def _unreachable(url: str, error: Exception) -> DownloadError:
    reason = getattr(error, "reason", error)
    return DownloadError(
        f"cannot reach {urlsplit(url).netloc} ({reason}): no network, or a proxy to set in https_proxy"
    )
