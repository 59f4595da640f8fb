"""Tables and figures of an experiment, from its `plan.json` and its `records/`.

This package imports `bench.store` and no other part of bench. `draw_law` reads the `law.json` of a
model folder instead.
"""

from pathlib import Path

from bench import store
from bench.report import figures, published, tables
from bench.report.frame import Results
from bench.report.law import draw_law

__all__ = ["draw_law", "report"]


def report(folder: Path) -> list[Path]:
    """Write `table.{md,csv,tex}`, `seconds.csv` and `figures/*.{png,pdf}` of a results folder.

    The same records always give the same bytes.

    Arguments:
        folder: the results folder of an experiment, with its plan and its records. `published.csv`
            beside the folder is read too, if the plan names a data set in it.

    Returns:
        Paths of the files.

    Raises:
        ValueError: there is no record yet.
    """
    folder = Path(folder)
    plan = store.load_plan(folder)
    others = published.read(folder, plan.get("published", ""))
    results = Results(plan, store.load_records(folder), others)
    if not results.done:
        name = results.plan["experiment"]
        raise ValueError(f"nothing of {name} was run yet; first: crs-bench run {name}")
    return [*tables.write(results, folder), *figures.write(results, folder)]
