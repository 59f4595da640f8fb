"""What a run says: a line for each finished cell where there is no bar, and an account at the end.

A terminal shows the bar (`bench.progress`). A log has these lines in its place.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import store
from bench.progress import Progress
from bench.report import Choice, table
from bench.report.frame import Results, label
from bench.report.layout import shown

_MOST = 5  # missing cells that are named


def cell(row: Mapping[str, Any], record: Mapping[str, Any], bar: Progress) -> None:
    """Say the scores of a finished cell, unless the bar is shown.

    row: of the plan. record: of the cell. Any thread may call it.
    """
    if not bar.disable:
        return
    scores = sorted(record["scores"].values(), key=lambda one: one["name"] != "fd")
    said = [f"{label(one['name'], one.get('features', ''))} {shown(one['value'], one['name'])}"
            for one in scores]  # fmt: skip
    took = sum(record["seconds"].values())
    tqdm.write(f"{_name(row)}: {', '.join(said)} ({took:.1f} s; cells left: {bar.unscored})",
               file=sys.stderr)  # fmt: skip


def _name(row: Mapping[str, Any]) -> str:
    tuned = "a try of " if row["role"] == "tune" else ""
    return f"{tuned}{row['line']}, {row['sampler']}, NFE {row['nfe']}, block {row['block']}"


def end(folder: Path, seconds: float) -> str:
    """The account of a run: its table, what is missing, its time, and where tables and figures are.

    folder: of the experiment's results.
    """
    results = Results(store.load_plan(folder), store.load_records(folder))
    rows = [row for row in results.plan["rows"] if row["key"] not in results.records]
    names = [*dict.fromkeys(map(_name, rows))]
    more = f"; and {len(names) - _MOST} more" if len(names) > _MOST else ""
    page = folder.parent / "page.html"
    how = f"crs-bench page --results {shlex.quote(str(folder.parent))}"
    named = f"{len(names)} cell{'s' * (len(names) > 1)}: {'; '.join(names[:_MOST])}{more}."
    lines = [
        f"Missing: {named}" if names else "No cell is missing.",
        f"Time: {tqdm.format_interval(seconds)}.",
        f"Tables: {folder / 'table.md'} (and .csv, .tex). Figures: {folder / 'figures'}.",
        f"Page of all experiments: {page if page.is_file() else 'not written yet'} ({how} "
        f"{'writes it again' if page.is_file() else 'writes it'}).",
    ]
    return "\n\n".join([*_tables(results, folder), "\n".join(lines)])


def _tables(results: Results, folder: Path) -> list[str]:
    """The table of FD, then those of the other metrics of the plan. Of many lines: FD only, of the
    lines that curves show."""
    found: list[str] = []
    many = any(results.sweeps(*group) for group in results.groups())
    known = [one["name"] for one in results.plan["metrics"] if one["name"] in results.metrics]
    known.sort(key=lambda name: name != "fd")
    for model, n in results.groups():
        if len(results.ran(model, n)):
            few = results.few(model, n) if results.sweeps(model, n) else results
            lines = tuple(dict.fromkeys(few.scored(model, n).line))
            some = " (some lines; table.md has all)" if few is not results else ""
            found.append(f"{results.subject(model, n)}{some}:")
            found += [table(folder, Choice(lines, metrics=(metric,), n=n)).grid()
                      for metric in (known[:1] if many else known)]  # fmt: skip
    return found
