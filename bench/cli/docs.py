"""The documentation: `crs-bench docs`. The pages are the files of `bench/docs`: Markdown, and a
notebook."""

import importlib
import inspect
import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated, Any

import typer

from bench.cli.options import app

REFERENCE = "reference"
_TITLE = "The public classes and functions, from their docstrings."
_ORDER = (
    "tour", "concepts", "own-model", "own-schedule", "own-sampler", "own-measure", "own-metric",
    "own-data", "published-checkpoints", "scoring", "protocol", "results", "paper", "tables",
    "page", "cost", "cluster", "damage", "changelog", "citation",
)  # fmt: skip
_ROOMS = ("schedules", "samplers", "measures", "metrics", "features", "checkpoints", "training")


@app.command()
def docs(
    page: Annotated[str, typer.Argument(help="the name of a page; without it, the list")] = "",
) -> None:
    """Show a page of the documentation. Without PAGE, list the pages."""
    from bench import names

    found = pages()
    if not page:
        width = max(map(len, [*found, REFERENCE]))
        for name, text in found.items():
            typer.echo(f"{name:{width}}  {summary(text)}")
        typer.echo(f"{REFERENCE:{width}}  {_TITLE}")
        return
    if page not in found and page != REFERENCE:
        raise ValueError(f"no page {page!r}{names.nearest(page, [*found, REFERENCE])}")
    typer.echo(reference() if page == REFERENCE else found[page], nl=False)


def pages() -> dict[str, str]:
    """Name -> text of each page that is a file, in reading order."""
    folder: Traversable = files("bench") / "docs"
    found = dict[str, str]()
    for file in folder.iterdir():
        name, _, kind = file.name.partition(".")
        if kind in ("md", "ipynb"):
            text = file.read_text(encoding="utf-8")
            found[name] = text if kind == "md" else _markdown(text)
    order = {name: at for at, name in enumerate(_ORDER)}
    return dict(sorted(found.items(), key=lambda one: (order.get(one[0], len(order)), one[0])))


def _markdown(notebook: str) -> str:
    """The cells of a notebook as Markdown."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"


def summary(text: str) -> str:
    """The first sentence below the title of a page."""
    paragraph = text.split("\n\n")[1].replace("\n", " ")
    return paragraph.partition(". ")[0].rstrip(".") + "."


def reference() -> str:
    """Signature and docstring of all public names, as Markdown."""
    bench = importlib.import_module("bench")
    parts = [f"# Reference\n\n{_TITLE}\n", "## bench\n"]
    own = {name: getattr(bench, name) for name in dir(bench)}
    parts += [_entry(f"bench.{name}", one) for name, one in own.items() if _has_entry(one)]
    for room in _ROOMS:
        module = importlib.import_module(f"bench.{room}")
        parts.append(f"## bench.{room}\n\n{inspect.cleandoc(module.__doc__ or '')}\n")
        found = {name: getattr(module, name) for name in sorted(module.__all__)}
        parts += [_entry(name, one) for name, one in found.items() if _has_entry(one)]
    return "\n".join(parts)


def _has_entry(found: Any) -> bool:
    return inspect.isclass(found) or inspect.isfunction(found)


def _entry(name: str, found: Any) -> str:
    """One class or function: its signature, its docstring, and the docstrings of its methods."""
    try:
        signature = str(inspect.signature(found))
    except (TypeError, ValueError):
        signature = ""
    text = inspect.cleandoc(vars(found).get("__doc__") or found.__doc__ or "")
    lines = [f"### {name}\n", f"```text\n{name}{signature}\n```\n", f"```text\n{text}\n```\n"]
    for method, what in vars(found).items() if inspect.isclass(found) else ():
        about = getattr(what, "__func__", what).__doc__
        if (not method.startswith("_") or method == "__call__") and about and _is_method(what):
            lines.append(f"```text\n.{method}\n{inspect.cleandoc(about)}\n```\n")
    return "\n".join(lines)


def _is_method(what: Any) -> bool:
    return inspect.isfunction(what) or isinstance(what, property | classmethod | staticmethod)
