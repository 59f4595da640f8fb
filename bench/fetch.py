"""Downloads that can be broken off and gone on with: whole and checked, or not under their name."""

import errno
import json
import shutil
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.store import file_digest, write_json

_PIECE = 2**16  # bytes; what came of the last one is lost where a connection breaks
_PATIENCE = (10, 60)  # seconds to connect, and between two pieces
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class _Broken(Exception):
    """A try that may be made again: what went wrong, in words."""


def download(
    address: str, path: Path, sha256: str | None = None, tries: int = 6, pause: float = 1.0
) -> str:
    """Fetch a file to `path`, and return its SHA-256; a file that is there already is only checked.

    What has come lies in `path` + ".part" until all has. A try that breaks off is made again, after
    `pause` seconds and then twice as long each time, from where it came to: if the server says that
    the file is still the same one, or its digest is known. Proxies are those of the environment
    (HTTPS_PROXY, NO_PROXY). sha256: what the file must have; None where nobody says it, and then
    only its length is checked, if the server tells it.

    ValueError: an address that is none or refused, a file of another digest, too little room on the
    disk, or no success in `tries`; what has come is kept but for a wrong digest.
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
            tqdm.write(f"{why}; once more in {pause:g} s")
            time.sleep(pause)
            pause *= 2
        try:
            _go_on(address, part, sha256 is not None)
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
    raise ValueError(
        f"{address} did not come in {tries} tries ({why}); what came is kept in {part}: run the "
        "same command again, or fetch it otherwise"
    )


def _checked(file: Path, path: Path, address: str, sha256: str | None) -> str:
    """The SHA-256 of what came; ValueError if it is another than is known."""
    found = file_digest(file)
    if sha256 is None or found == sha256:
        return found
    if file != path:  # just now; one that lay there is not ours to delete
        file.unlink()
        _memo(file).unlink(missing_ok=True)
    raise ValueError(
        f"{path}: what {address} gave is not the published file: SHA-256 {found}, not {sha256}; "
        + ("it was deleted: fetch it again" if file != path else "remove it and fetch it again")
    )


def _memo(part: Path) -> Path:
    """Beside a part: which version of which address it is of."""
    return part.with_name(part.name + ".json")


def _go_on(address: str, part: Path, known: bool) -> None:
    """One try, from the end of the part if its version can be told or checked in the end.

    `_Broken` if it may succeed later.
    """
    import requests

    memo = json.loads(_memo(part).read_text()) if _memo(part).is_file() else {}
    tag = memo.get("version") if memo.get("address") == address else None
    done = part.stat().st_size if tag or known else 0
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-"} | ({"If-Range": tag} if tag else {})
    try:
        with requests.get(address, headers=headers, stream=True, timeout=_PATIENCE) as answer:
            start, total = _opening(answer, address, done, part)
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            strong = version if version and not version.startswith("W/") else None
            write_json(_memo(part), {"address": address, "version": strong})
            _receive(answer, part, start, total)
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema,
            requests.exceptions.InvalidSchema) as error:  # fmt: skip
        raise ValueError(f"{address} is no address: {error}") from error
    except requests.exceptions.RequestException as error:
        raise _Broken(f"{address}: {type(error).__name__}") from error


def _opening(answer: Any, address: str, done: int, part: Path) -> tuple[int, int | None]:
    """(byte at which the body starts, length of the whole file if it is told)."""
    status = answer.status_code
    length = answer.headers.get("Content-Length")
    if status == 206:
        told = answer.headers.get("Content-Range", "").removeprefix("bytes ")
        span, _, total = told.rpartition("/")
        if span.partition("-")[0] != str(done):
            part.unlink()
            part.touch()
            raise _Broken(f"{address}: the server sent another part than was asked for")
        return done, int(total) if total.isdigit() else None
    if status == 200:
        return 0, int(length) if length else None
    if status == 416:  # nothing follows: the part is the whole, or not of this file
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if total == str(done):
            return done, done
        part.unlink()
        part.touch()
        raise _Broken(f"{address}: what had come is not of this file")
    if status in _TRANSIENT:
        raise _Broken(f"{address}: the server answered {status} {answer.reason}")
    raise ValueError(f"{address}: the server answered {status} {answer.reason}; check the address")


def _receive(answer: Any, part: Path, start: int, total: int | None) -> None:
    """Append the body after `start` bytes; `_Broken` if it ends early."""
    if answer.status_code == 416:
        return
    if total is not None and total - start > (free := shutil.disk_usage(part.parent).free):
        raise ValueError(
            f"{part.parent} has {free / 2**30:.1f} GiB free, but {(total - start) / 2**30:.1f} GiB "
            "are to come; make room, or give another folder"
        )
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
        raise _Broken(f"{answer.url}: {size} of {total} bytes came")
