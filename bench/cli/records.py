"""The verb that lists, shows and deletes the records of an experiment."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.experiments import folder_of
from bench.cli.options import Results, app

_NO_ROW = {"role": "not planned", "block": ""}  # an edited experiment leaves records behind


@app.command()
def records(
    experiment: Annotated[str, typer.Argument(help="an experiment that was run")],
    show: Annotated[
        str, typer.Option(help="KEY, or its first letters: print the whole record")
    ] = "",
    delete: Annotated[
        list[str] | None,
        typer.Option(help="KEY, or its first letters: delete all of that cell; repeatable"),
    ] = None,
    results: Results = Path("results"),
) -> None:
    """List the records of an experiment, show one, or delete some.

    --delete also deletes the features and the images of the cell. `run` makes the cell again.
    """
    from bench import store

    folder = folder_of(experiment, results)
    found = store.load_records(folder)
    if show and delete:
        raise ValueError("give either --show or --delete")
    if show:
        typer.echo(json.dumps(found[_key_of(show, found)], indent=1))
        return
    rows: dict[str, dict[str, Any]] = {}
    for row in store.load_plan(folder)["rows"]:
        rows.setdefault(row["key"], row)  # cells that share their images share a record
    for key in [_key_of(one, found) for one in delete or ()]:
        store.delete_record(folder, key)
        about = _about(found[key], rows.get(key, {}))
        typer.echo(f"deleted {key}: {', '.join(about)}; the command that ran {experiment} "
                   "makes it again")  # fmt: skip
    if not delete:
        _list(found, rows)


def _key_of(text: str, found: dict[str, Any]) -> str:
    """The key that starts with a text. ValueError: none does, or several do."""
    keys = [key for key in found if key.startswith(text)] if text else []
    if len(keys) != 1:
        what = f"{len(keys)} keys of records start" if keys else "no key of a record starts"
        raise ValueError(f"{what} with {text!r}; list the keys: crs-bench records EXPERIMENT")
    return keys[0]


def _about(record: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """Role, line, sampler, NFE and block of a cell, as words."""
    from bench.types.described import label_of

    cell, row = record["cell"], _NO_ROW | row
    sampler = row.get("sampler") or label_of(cell["sampler"])
    block = [f"block {row['block']}"] if row["block"] else []
    return [row["role"], row.get("line") or cell["label"], sampler, f"NFE {cell['nfe']}", *block]


def _list(found: dict[str, Any], rows: dict[str, Any]) -> None:
    """One line for each record: in the order of the plan, then those that are not planned."""
    for key in [*(key for key in rows if key in found), *sorted(found.keys() - rows.keys())]:
        record = found[key]
        scores = [f"{one['name']} {one['value']:.4g}" for one in record["scores"].values()]
        about = ", ".join(_about(record, rows.get(key, {})))
        typer.echo(f"{key}  {record.get('date', '')[:10]}  {about}: {', '.join(scores)}")
    missing = len(rows.keys() - found.keys())
    typer.echo(f"records: {len(found)}; planned cells without a record: {missing}", err=True)
