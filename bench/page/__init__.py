"""One HTML file that shows all experiments of a results folder. It needs no server and no network.

d3 and Observable Plot draw, Tabulator makes the table. All of them are in `assets/vendor`, with
their licences, and each page carries a copy.
"""

import base64
import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from bench import store
from bench.page.collect import UNKNOWN, About, Content, collect

__all__ = ["Content", "UNKNOWN", "collect", "html", "write"]

MOST_STRIPS = 20_000_000  # bytes of pictures that a page carries
_SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "vendor/tabulator.min.js", "page.js")
_STYLES = ("vendor/tabulator_simple.min.css", "page.css")


def write(results: Path, out: Path, about: About = lambda *_: UNKNOWN) -> tuple[Path, int]:
    """Write the page of a results folder.

    Arguments:
        results: folder with one folder for each experiment.
        out: the HTML file.
        about: (model, digest) -> its "space" and training "law"; see `collect`.

    Returns:
        The file, and the number of sample strips that did not fit in `MOST_STRIPS` bytes.

    Raises:
        ValueError: see `collect`.
    """
    content = collect(results, about)
    strips, left_out = _strips(content)
    return store.write_text(out, html(content, strips)), left_out


def html(content: Content, strips: dict[str, str]) -> str:
    """The page as text. strips: key -> base64 of a PNG."""
    parts = list(content.records.values())
    shown = {
        "rows": content.rows, "protocols": content.protocols, "metrics": content.metrics,
        "experiments": content.experiments,
        "part": {key: at for at, records in enumerate(parts) for key in records},
    }  # fmt: skip
    blobs = {"shown": _packed(shown), "strips": _packed(strips)}
    blobs |= {f"records-{at}": _packed(records) for at, records in enumerate(parts)}
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(
        _asset("page.html")
    )
    return template.render(
        blobs=blobs, scripts=map(_script, _SCRIPTS), styles=map(_asset, _STYLES),
        licences=_asset("vendor/LICENSES.txt"),
    )  # fmt: skip


def _asset(name: str) -> str:
    return (files("bench.page") / "assets" / name).read_text(encoding="utf-8")


def _script(name: str) -> str:
    """A script without the comment that asks a browser for its source map."""
    lines = _asset(name).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("//# sourceMappingURL"))


def _packed(content: Any) -> str:
    """JSON, compressed, as base64: no text of a file can end the script that holds it."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _strips(content: Content) -> tuple[dict[str, str], int]:
    """Key -> base64 of its picture, until `MOST_STRIPS` is spent; and how many are left out."""
    found: dict[str, str] = {}
    left = MOST_STRIPS
    for key, path in content.strips.items():
        if (size := path.stat().st_size) <= left:
            found[key], left = base64.b64encode(path.read_bytes()).decode(), left - size
    return found, len(content.strips) - len(found)
