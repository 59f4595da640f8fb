"""Downloads against a server that misbehaves in every way that servers do."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from console import crs

from bench import checkpoints, features
from bench.fetch import download
from bench.zoo import adm

BODY = bytes(range(256)) * 9000  # 2.3 MB: more than one piece
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """Answers each request by the next of `turns`, the last one for all that follow."""

    turns: list[Callable] = field(default_factory=list)
    seen: list[tuple[str, dict]] = field(default_factory=list)  # path, headers
    url: str = ""

    def next(self) -> Callable:
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.seen.append((self.path, dict(self.headers)))
            state.next()(self)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/a.pt"
    yield state
    http.shutdown()
    http.server_close()


def whole(
    body: bytes = BODY, tag: str = '"v1"', upto: int | None = None, says: int | None = None,
    ranges: bool = True,
) -> Callable:  # fmt: skip
    """The file, from the byte that is asked for; `upto` bytes of it at most, `says` for length."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start, asked = 0, handler.headers.get("Range")
        same = handler.headers.get("If-Range") in (None, tag)
        if asked and ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(body)}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        if tag:
            handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(says or len(body) - start))
        handler.end_headers()
        handler.wfile.write(body[start : None if upto is None else start + upto])

    return answer


def status(code: int, **headers: str) -> Callable:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def start_of(span: str) -> int:
    return int(span.removeprefix("bytes=").removesuffix("-"))


def only(path: Path) -> None:
    """The file and nothing beside it."""
    assert path.read_bytes() == BODY
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("known", [SHA256, None])
def test_what_breaks_off_is_gone_on_with(known: str | None, server: Server, tmp_path: Path) -> None:
    server.turns = [whole(upto=1_000_000), whole(upto=700_000), whole()]
    path = tmp_path / "in" / "a.pt"
    assert download(server.url, path, known, pause=0) == SHA256
    only(path)
    first, second, third = (headers.get("Range", "bytes=0-") for _, headers in server.seen)
    assert first == "bytes=0-" and 0 <= 1_000_000 - start_of(second) < 2**16
    assert 0 <= start_of(second) + 700_000 - start_of(third) < 2**16
    assert server.seen[1][1]["If-Range"] == '"v1"'
    assert download(server.url, path, known) == SHA256  # there already
    assert len(server.seen) == 3


def test_a_stopped_command_goes_on_next_time(server: Server, tmp_path: Path) -> None:
    server.turns = [whole(upto=1_000_000)]
    path = tmp_path / "a.pt"
    with pytest.raises(ValueError, match=r"was not downloaded in 1 tries .*kept in .*a\.pt\.part"):
        download(server.url, path, tries=1)
    came = (tmp_path / "a.pt.part").stat().st_size
    assert 0 <= 1_000_000 - came < 2**16 and not path.exists()
    server.turns = [whole()]
    download(server.url, path)
    assert server.seen[-1][1]["Range"] == f"bytes={came}-"
    only(path)


def test_all_had_come_but_its_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.pt.part").write_bytes(BODY)
    server.turns = [whole()]
    assert download(server.url, tmp_path / "a.pt", SHA256) == SHA256  # 416, of the same length
    only(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "second",
    [whole(ranges=False), whole(tag='"v2"'), whole(tag="")],
    ids=["no ranges", "another version", "no version"],
)
def test_another_version_starts_again(second: Callable, server: Server, tmp_path: Path) -> None:
    other = bytes(1_000_000)
    server.turns = [whole(other, upto=500_000), second]
    assert download(server.url, tmp_path / "a.pt", pause=0) == SHA256
    only(tmp_path / "a.pt")


def test_without_a_version_only_a_digest_allows_to_go_on(server: Server, tmp_path: Path) -> None:
    server.turns = [whole(tag="", upto=1_000_000), whole(tag="")]
    download(server.url, tmp_path / "a.pt", pause=0)
    assert "Range" not in server.seen[1][1]
    server.seen.clear()
    server.turns = [whole(tag="", upto=1_000_000), whole(tag="")]
    download(server.url, tmp_path / "b.pt", SHA256, pause=0)
    assert start_of(server.seen[1][1]["Range"]) > 900_000


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.pt.part").write_bytes(BODY + b"more")
    server.turns = [whole()]
    assert download(server.url, tmp_path / "a.pt", SHA256, pause=0) == SHA256
    only(tmp_path / "a.pt")


@pytest.mark.parametrize("says", [len(BODY) + 10, len(BODY) - 10])
def test_a_lie_about_the_length_is_found(says: int, server: Server, tmp_path: Path) -> None:
    server.turns = [whole(says=says, ranges=False)]
    with pytest.raises(ValueError, match="was not downloaded in 2 tries|not the published file"):
        download(server.url, tmp_path / "a.pt", SHA256, tries=2, pause=0)
    assert not (tmp_path / "a.pt").exists()


def test_a_wrong_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.turns = [whole(b"other" * 1000)]
    with pytest.raises(
        ValueError, match=f"not the published file: SHA-256 .* not {SHA256}; it was"
    ):
        download(server.url, tmp_path / "a.pt", SHA256)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.pt").write_bytes(b"mine")
    with pytest.raises(ValueError, match="remove it and fetch it again"):
        download(server.url, tmp_path / "a.pt", SHA256)
    assert (tmp_path / "a.pt").read_bytes() == b"mine"


@pytest.mark.parametrize("code", [404, 403, 410])
def test_a_refusal_is_not_tried_again(code: int, server: Server, tmp_path: Path) -> None:
    server.turns = [status(code)]
    with pytest.raises(ValueError, match=f"answered {code} .*check the address"):
        download(server.url, tmp_path / "a.pt")
    assert len(server.seen) == 1 and list(tmp_path.iterdir()) == []


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.turns = [status(503), status(429), status(302, Location="/b.pt"), whole()]
    assert download(server.url, tmp_path / "a.pt", pause=0) == SHA256
    assert [path for path, _ in server.seen] == ["/a.pt", "/a.pt", "/a.pt", "/b.pt"]


def test_a_proxy_of_the_environment_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.turns = [whole()]
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/a.pt"))
    monkeypatch.setenv("NO_PROXY", "")
    assert download("http://nowhere.invalid/x.pt", tmp_path / "a.pt") == SHA256
    assert server.seen[0][0] == "http://nowhere.invalid/x.pt"


def test_no_server_no_room_no_address(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="was not downloaded in 2 tries .*ConnectionError"):
        download("http://127.0.0.1:9/a.pt", tmp_path / "a.pt", tries=2, pause=0)
    with pytest.raises(ValueError, match="is no address"):
        download("openaipublic/a.pt", tmp_path / "b.pt")
    server.turns = [whole()]
    monkeypatch.setattr("bench.fetch.shutil.disk_usage", lambda _: type("U", (), {"free": 10}))
    with pytest.raises(ValueError, match="GiB free, but .* make room"):
        download(server.url, tmp_path / "c.pt")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write in"):
        download(server.url, tmp_path / "file" / "d.pt")


def test_fetch_makes_a_model_of_a_preset(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    flags = {
        "image_size": 16, "num_channels": 32, "channel_mult": (1, 1), "num_res_blocks": 1,
        "attention_resolutions": (8,), "num_head_channels": 16,
    }  # fmt: skip
    chosen = adm.ADMPreset.model_validate({"flags": flags, "address": server.url})
    torch.save(adm.ADMNet(chosen.flags).state_dict(), tmp_path / "net.pt")
    server.turns = [whole((tmp_path / "net.pt").read_bytes())]
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(adm.PRESETS, "tiny", chosen)
    models = tmp_path / "models"
    assert crs(monkeypatch, "fetch", "tiny", "--models", models) == 0
    said = capsys.readouterr().out
    assert "the publisher gives no SHA-256" in said and str(models / "tiny") in said
    assert checkpoints.load("tiny", models=models).shape == (3, 16, 16)
    assert (tmp_path / "cache" / "downloads" / "a.pt").is_file()
    assert crs(monkeypatch, "fetch", "tiny", "--models", models) == 2  # before any download
    assert len(server.seen) == 1
    out = ("--to", tmp_path / "out", "--only-file")
    assert crs(monkeypatch, "fetch", "tiny", "--models", models, *out) == 0
    assert (tmp_path / "out" / "a.pt").is_file()
    assert crs(monkeypatch, "fetch", "dit-xl-2-256", "--models", models) == 2
    assert "needs --codec FOLDER" in capsys.readouterr().err  # before any download
    assert crs(monkeypatch, "fetch", "lsun-hors") == 2
    assert "did you mean" in capsys.readouterr().err


def test_fetch_puts_references_and_weights_in_their_places(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    server.turns = [whole()]
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setitem(features.PUBLISHED, "VIRTUAL_lsun_horse256", server.url)
    assert crs(monkeypatch, "fetch", "VIRTUAL_lsun_horse256") == 0
    assert features.known_references()["VIRTUAL_lsun_horse256"] == ["inception-v3-compat"]
    published = replace(features.VGG16.published, url=server.url)
    monkeypatch.setattr(features.VGG16, "published", published)
    assert crs(monkeypatch, "fetch", "vgg16") == 2
    assert "is damaged or was changed" in capsys.readouterr().err
    assert published.cached.is_file()
