"""Records -> tables and figures. Reads `plan.json` and `records/`, imports the store only.

`draw_law` reads a model folder's `law.json` instead.
"""

from pathlib import Path

from bench import store
from bench.report import figures, published, tables
from bench.report.frame import Results
from bench.report.law import draw_law

__all__ = ["draw_law", "report"]


def report(folder: Path) -> list[Path]:
    """Write `table.{md,csv,tex}`, `seconds.csv` and `figures/*.{png,pdf}` of a results folder.

    Nothing but the plan and the records is read, and the files are the same to the byte each time.
    ValueError if nothing was run yet.
    """
    folder = Path(folder)
    plan = store.load_plan(folder)
    others = published.read(folder, plan.get("published", ""))
    results = Results(plan, store.load_records(folder), others)
    if not results.done:
        name = results.plan["experiment"]
        raise ValueError(f"nothing of {name} was run yet; first: crs-bench run {name}")
    return [*tables.write(results, folder), *figures.write(results, folder)]
