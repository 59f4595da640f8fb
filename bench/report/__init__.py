"""Tables and figures of an experiment, from its `plan.json` and its `records/`.

This package imports `bench.store` and `bench.curves`, and no other part of bench. `draw_law`
reads the `law.json` of a model folder instead, and `draw_losses` its `loss.csv`.
"""

from collections.abc import Callable, Collection
from pathlib import Path

from bench import store
from bench.report import chosen, figures, published, tables
from bench.report.chosen import Choice, Table
from bench.report.drawing import ONE, TWO
from bench.report.frame import Results
from bench.report.law import draw_law
from bench.report.losses import draw_losses
from bench.report.study import report_study

__all__ = ["Choice", "draw", "draw_law", "draw_losses", "report", "report_study", "table"]


def table(folder: Path, choice: Choice, other: Path | None = None, line: str = "") -> Table:
    """One table of chosen lines, samplers, NFEs and metrics of an experiment.

    Arguments:
        other: the folder of an experiment whose scores are subtracted, paired by seeds. None: the
            table has the scores themselves.
        line: the line of `other` that is subtracted. "": the line of the same name.

    Raises:
        ValueError: as of `report`; something is chosen that is not there; nothing can be paired.
    """
    try:
        results = _results(folder)
        if other is None:
            return chosen.scores(results, choice)
        theirs = results if other == folder else _results(other)
        return chosen.differences(results, choice, theirs, line)
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{folder}: the plan or a record is damaged ({type(error).__name__}: "
        f"{store.in_a_line(error)}); fetch the folder again, or delete it and run again"
    )


def _empty(name: str) -> ValueError:
    return ValueError(f"no cell of {name} is done yet; start the command that ran it again")


def _results(folder: Path) -> Results:
    """The results of a folder. ValueError: nothing was run yet."""
    plan = store.load_plan(folder)
    results = Results(plan, store.load_records(folder))
    if not results.done:
        raise _empty(store.in_a_line(plan["experiment"]))
    return results


def report(folder: Path) -> list[Path]:
    """Write `table.{md,csv,tex}`, `{summary,differences,seconds}.csv` and `figures/*.{png,pdf}`.

    The same records always give the same bytes.

    Arguments:
        folder: the results folder of an experiment, with its plan and its records. `published.csv`
            beside the folder is read too, if the plan names a data set in it.

    Returns:
        Paths of the files.

    Raises:
        ValueError: there is no record yet, or the plan or a record is damaged. The message names
            the folder.
    """
    return _written(
        Path(folder),
        lambda results, folder: [
            *tables.write(results, folder), *figures.write(results, folder, folder / "figures"),
        ],
    )  # fmt: skip


def draw(folder: Path, out: Path, lines: Collection[str] = (), columns: int = 2) -> list[Path]:
    """Write the figures of an experiment into a folder, as `<name>.png` and `<name>.pdf`.

    Arguments:
        folder: the results folder of the experiment.
        lines: those that curves show. Empty: at most six.
        columns: width in columns of a paper, 1 (3.35 inches) or 2 (6.9 inches).

    Returns:
        Paths of the files.

    Raises:
        ValueError: as of `report`; a line that was not scored; another number of columns.
    """
    if columns not in (1, 2):
        raise ValueError(f"a figure is 1 or 2 columns wide, not {columns}")
    rows, records = store.load_plan(folder)["rows"], store.load_records(folder)
    known = dict.fromkeys(row["line"] for row in rows
                          if row["role"] == "score" and row["key"] in records)  # fmt: skip
    for line in lines if known else ():
        if line not in known:
            raise ValueError(f"no cell of line {line!r} was run yet (known: {', '.join(known)})")
    width = ONE if columns == 1 else TWO
    return _written(
        Path(folder), lambda results, its: figures.write(results, its, out, lines, width)
    )


def _written(folder: Path, write: Callable[[Results, Path], list[Path]]) -> list[Path]:
    """What `write` makes of a folder's results, with the errors of `report`."""
    plan = store.load_plan(folder)
    results = Results(plan, store.load_records(folder), [])
    try:
        done, name = bool(results.done), store.in_a_line(plan["experiment"])
        results.published.extend(published.read(folder, plan.get("published", "")))
        made = write(results, folder) if done else []
    except OSError:  # a disk that cannot be written
        raise
    except Exception as error:  # of content that no run wrote pandas and matplotlib raise anything
        raise _damaged(folder, error) from error
    if not done:
        raise _empty(name)
    return made
