"""Damage: bytes are cut, flipped, inserted and doubled; checksums are mended in half of them."""

import copy
import io
import json
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

Mutate = Callable[[bytes, int], bytes]
_PNG = b"\x89PNG\r\n\x1a\n"
_PATCHES = (
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\n", b"-1", b"1e999", b"NaN", b"null", b"[[", b"{}",
)  # fmt: skip


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The same file after one to four random changes."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.choice((1, 1, 2, 4, 16, 64)))
        change = draw.choice(("cut", "flip", "flip", "insert", "double", "end", "patch"))
        if change == "cut":
            data = data[:at] + data[to:]
        elif change == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif change == "insert":
            data = data[:at] + draw.randbytes(draw.choice((1, 2, 8))) + data[at:]
        elif change == "double":
            data = data[:to] + data[at:]
        elif change == "patch":
            data = data[:at] + draw.choice(_PATCHES) + data[to:]
        elif draw.random() < 0.3:
            data = data[:at]
    return data


def series(seeds: list[bytes], count: int, kind: str) -> Iterator[bytes]:
    """A fixed series of damaged files, as many as asked for."""
    draw = random.Random(kind)

    def mutate(data: bytes, most: int) -> bytes:
        return damaged(data, draw)[:most]

    for i in range(count):
        yield repaired(kind, mutate, seeds[i % len(seeds)], 2**16, i)


def repaired(kind: str, mutate: Mutate, data: bytes, most: int, seed: int) -> bytes:
    """A damaged file. In half of the cases the checksums fit again, so that readers go on."""
    draw = random.Random(seed)
    if draw.random() < 0.5:
        return mutate(data, most)
    if data.startswith(b"PK"):
        return _in_a_zip(mutate, data, most, draw) or mutate(data, most)
    if kind in _JSON and draw.random() < 0.8 and (changed := _in_json(data, draw)):
        return changed if len(changed) <= most else mutate(data, most)
    data = mutate(data, most)
    return _mended(data)[:most] if data.startswith(_PNG) else data


_JSON = ("results", "card", "measurement", "text")
_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 3, 10**6, 10**30, 10**400, 0.5, 1e-300, 1e308, float("nan"), float("inf"),
    "", "x", "1", "a\nb", "$\\frac{", "%s{}", "\0", "\ud800", [], [[]], [1, 2], {},
    {"class": "Rate"},
)  # fmt: skip


def _in_json(data: bytes, draw: random.Random) -> bytes:
    """JSON with one to three of its values odd, or gone. Nothing if it is no JSON."""
    head = data[:1] if data[:1] < b" " else b""
    try:
        content = json.loads(data[len(head) :])
    except (ValueError, RecursionError):
        return b""
    for _ in range(draw.randint(1, 3) if isinstance(content, dict | list) else 0):
        inside: Any = content
        for _ in range(draw.randint(1, 7)):
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not keys:
                break
            key = draw.choice(keys)
            if not isinstance(inside[key], dict | list) or draw.random() < 0.15:
                _spoil(inside, key, content, draw)
                break
            inside = inside[key]
    return head + json.dumps(content).encode()


def _spoil(inside: Any, key: Any, content: Any, draw: random.Random) -> None:
    """Replace a value, take it away, or double it."""
    change = draw.random()
    if change < 0.15:
        del inside[key]
    elif change < 0.25 and isinstance(inside, list):
        inside.insert(key, copy.deepcopy(inside[key]))
    elif isinstance(inside[key], float | int) and abs(inside[key]) < 1e300 and change < 0.5:
        inside[key] = inside[key] * draw.choice((-1, 10, 1e9, 1e-9, 0)) + draw.choice((0, 1))
    else:
        inside[key] = copy.deepcopy(draw.choice(_ODD))


def _mended(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + size]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return out + data[at:]


def _in_a_zip(mutate: Mutate, data: bytes, most: int, draw: random.Random) -> bytes:
    """A zip with one of its files, or one of their names, damaged. Nothing if it is no zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old:
            members = [(info.filename, info.compress_type, old.read(info))
                       for info in old.infolist() if info.file_size < most]  # fmt: skip
    except Exception:  # of a damaged zip zipfile raises nearly anything
        return b""
    if not members:
        return b""
    i = draw.randrange(len(members))
    name, how, content = members[i]
    if draw.random() < 0.1:
        name = mutate(name.encode(), 64).decode(errors="replace") or "x"
    else:
        content = mutate(content, most)
        content = _mended(content) if content.startswith(_PNG) else content
    members[i] = (name, how, content)
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(out := io.BytesIO(), "w") as new:
        for name, how, content in members:
            new.writestr(zipfile.ZipInfo(name), content, how)
    return out.getvalue() if len(out.getvalue()) <= most else b""
