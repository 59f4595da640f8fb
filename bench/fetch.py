"""Download files. Published weights have up to 2 GB, so an interrupted download resumes.

Ready-made functions do not replace this module. pooch 1.9 and torch.hub delete a partial file and
start again at byte 0.
"""

import errno
import json
import shutil
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.store import file_digest, write_json

_PIECE = 2**16  # bytes written at once: a lost connection loses at most one piece
_TIMEOUT = (10, 60)  # seconds to connect, and seconds between two pieces
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class _Broken(Exception):
    """A failure after which another try can succeed. Its text names the failure."""


def download(
    address: str, path: Path, sha256: str | None = None, tries: int = 6, pause: float = 1.0
) -> str:
    """Download a file. If the file exists, only check its digest.

    `path` + ".part" holds the bytes until the file is complete. A later try resumes after the last
    byte, if the server still has the same version of the file or if `sha256` is known. The
    environment sets the proxy (HTTPS_PROXY, NO_PROXY).

    Arguments:
        sha256: expected digest, 64 hex digits. None: nobody published a digest. Then only the
            length is checked, if the server sends a length.
        tries: number of tries, at least 1.
        pause: seconds before the second try. Each later pause is twice as long.

    Returns:
        SHA-256 of the file, 64 hex digits.

    Raises:
        ValueError: the address is not valid, the server refuses it, the digest is wrong, the disk
            is full, or all tries failed. The partial file is kept, except after a wrong digest.
    """
    if path.is_file():
        return _checked(path, path, address, sha256)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise ValueError(f"cannot write in {path.parent}: {error.strerror}") from error
    why = ""
    for turn in range(tries):
        if turn:
            tqdm.write(f"{why}; the next try starts in {pause * 2 ** (turn - 1):g} s")
            time.sleep(pause * 2 ** (turn - 1))
        try:
            _try(address, part, sha256 is not None)
        except _Broken as error:
            why = str(error)
            continue
        except ValueError:
            if part.stat().st_size == 0:
                part.unlink()
            raise
        found = _checked(part, path, address, sha256)
        part.replace(path)
        _memo(part).unlink(missing_ok=True)
        return found
    raise ValueError(f"{address} was not downloaded in {tries} tries ({why}); the partial file is "
                     f"kept in {part}: run the same command again")  # fmt: skip


def _checked(file: Path, path: Path, address: str, sha256: str | None) -> str:
    """The SHA-256 of `file`. ValueError: it is not `sha256`; then a partial file is deleted."""
    found = file_digest(file)
    if sha256 is None or found == sha256:
        return found
    remedy = "remove it and fetch it again"
    if file != path:  # downloaded now: a file that was there before belongs to the user
        file.unlink()
        _memo(file).unlink(missing_ok=True)
        remedy = "it was deleted: fetch it again"
    raise ValueError(f"{path}, from {address}, is not the published file: SHA-256 {found}, not "
                     f"{sha256}; {remedy}")  # fmt: skip


def _memo(part: Path) -> Path:
    """The JSON file that names the address and the version of a partial file."""
    return part.with_name(part.name + ".json")


def _try(address: str, part: Path, known: bool) -> None:
    """One try. It resumes if the version or the digest (`known`) can show a changed file.

    _Broken: another try can succeed. ValueError: no try can succeed.
    """
    import requests

    memo = json.loads(_memo(part).read_text(encoding="utf-8")) if _memo(part).is_file() else {}
    tag = memo.get("version") if memo.get("address") == address else None
    done = part.stat().st_size if tag or known else 0
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-"} | ({"If-Range": tag} if tag else {})
    try:
        with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            start, total = _span(answer, address, done, part)
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            strong = version if version and not version.startswith("W/") else None
            write_json(_memo(part), {"address": address, "version": strong})
            if answer.status_code != 416:
                _receive(answer, part, start, total)
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema,
            requests.exceptions.InvalidSchema) as error:  # fmt: skip
        raise ValueError(f"{address} is no address: {error}") from error
    except requests.exceptions.RequestException as error:
        raise _Broken(f"{address}: {type(error).__name__}") from error


def _span(answer: Any, address: str, done: int, part: Path) -> tuple[int, int | None]:
    """The first byte of the body, and the length of the whole file if the server sends it."""
    status, length = answer.status_code, answer.headers.get("Content-Length")
    if status == 200:
        return 0, int(length) if length else None
    if status in (206, 416):  # 416: no byte follows; the part is complete, or of another file
        bounds = answer.headers.get("Content-Range", "").removeprefix("bytes ")
        first, _, total = bounds.rpartition("/")
        if status == 206 and first.partition("-")[0] == str(done):
            return done, int(total) if total.isdigit() else None
        if status == 416 and total == str(done):
            return done, done
        part.write_bytes(b"")
        raise _Broken(f"{address}: the server's bytes do not fit the partial file")
    if status in _TRANSIENT:
        raise _Broken(f"{address}: the server answered {status} {answer.reason}")
    raise ValueError(f"{address}: the server answered {status} {answer.reason}; check the address")


def _receive(answer: Any, part: Path, start: int, total: int | None) -> None:
    """Write the body after byte `start`. _Broken: it is shorter or longer than announced."""
    if total is not None and total - start > (free := shutil.disk_usage(part.parent).free):
        raise ValueError(f"{part.parent} has {free / 2**30:.1f} GiB free, but the download needs "
                         f"{(total - start) / 2**30:.1f} GiB; make room, or choose another folder "
                         "with --to")  # fmt: skip
    with (
        open(part, "r+b") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024,
             disable=None, desc=part.name.removesuffix(".part")) as bar,
    ):  # fmt: skip
        file.truncate(start)
        file.seek(start)
        try:
            for piece in answer.iter_content(_PIECE):
                file.write(piece)
                bar.update(len(piece))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise ValueError(f"{part.parent} is full; make room and run again") from error
            raise
        size = file.tell()
    if total is not None and size != total:
        raise _Broken(f"{answer.url}: {size} of {total} bytes arrived")
