"""Tables as data: which score is in which cell. Markdown, LaTeX and figures use the same data."""

from dataclasses import dataclass

import pandas as pd

from bench.report.frame import Results, Score

MANY_SAMPLERS = 4  # with more samplers, a table is an NFE: samplers by schedules


@dataclass(frozen=True)
class Grid:
    """One table.

    subject: a sampler, or an NFE.
    corner: head of the first column.
    heads: heads of the other columns.
    rows: head of a row -> scores. None: the cell was not run.
    """

    subject: str
    corner: str
    heads: list[str]
    rows: dict[str, list[Score | None]]

    @property
    def scores(self) -> list[Score]:
        """The scores of all cells that were run."""
        return [score for row in self.rows.values() for score in row if score]


def samplers(results: Results, model: str, n: int) -> list[str]:
    """The samplers of a group, in plan order."""
    return list(dict.fromkeys(results.scored(model, n).sampler))


def crossed(results: Results, model: str, n: int) -> bool:
    """Whether many samplers are planned for a group, so that a table is an NFE."""
    rows = results.planned
    return rows[(rows.model == model) & (rows.n == n)].sampler.nunique() > MANY_SAMPLERS


def grids(results: Results, model: str, n: int, metric: str) -> list[Grid]:
    """The tables of a metric.

    Few samplers: a table for each sampler, with schedule lines as rows and NFEs as columns. Scores
    are compared within a column. Many samplers: a table for each NFE, with samplers as rows and
    schedule lines as columns. Scores are compared within a row.
    """
    if crossed(results, model, n):
        nfes = sorted(set(results.scored(model, n).nfe))
        return [_of_nfe(results, model, n, nfe, metric) for nfe in nfes]
    return [_of_sampler(results, model, n, one, metric) for one in samplers(results, model, n)]


def _of_sampler(results: Results, model: str, n: int, sampler: str, metric: str) -> Grid:
    rows = results.scored(model, n)
    nfes = sorted(set(rows[rows.sampler == sampler].nfe))
    columns = [results.column(model, n, sampler, nfe, metric) for nfe in nfes]
    heads = [f"{nfe}{_counted(results, model, n, sampler, nfe)}" for nfe in nfes]
    lines = results.lines(model, n, sampler)
    cells = {line: [column.get(line) for column in columns] for line in lines}
    return Grid(sampler, f"{sampler}, NFE", heads, cells)


def _of_nfe(results: Results, model: str, n: int, nfe: int, metric: str) -> Grid:
    lines = list(dict.fromkeys(results.scored(model, n).line))
    cells = {}
    for sampler in samplers(results, model, n):
        scores = results.column(model, n, sampler, nfe, metric)
        if metric in ("rms_error", "fd_error") and not any(scores.values()):
            continue  # a stochastic sampler has no converged run
        name = sampler + _counted(results, model, n, sampler, nfe)
        cells[name] = [scores.get(line) for line in lines]
    return Grid(f"NFE {nfe}", f"NFE {nfe}", lines, cells)


def _counted(results: Results, model: str, n: int, sampler: str, nfe: int) -> str:
    """The numbers of evaluations in brackets, if they differ from the NFE; else ""."""
    rows = results.scored(model, n)
    here = rows[(rows.sampler == sampler) & (rows.nfe == nfe)]
    counted = sorted(set(here.counted.dropna().astype(int)))
    return "" if counted in ([], [nfe]) else f" ({'/'.join(map(str, counted))})"


_SHARES = {"precision", "recall", "precision_adm", "recall_adm", "precision2", "recall2", "density",
           "coverage", "is"}  # fmt: skip


def digits(value: float, metric: str) -> int:
    """Number of digits after the decimal point."""
    name = metric.partition("(")[0]
    if name == "kid":
        return 5
    return 3 if name in _SHARES else (1 if value >= 100 else 2)


def shown(value: float, metric: str) -> str:
    """A score as tables show it."""
    return f"{value:.{digits(value, metric)}f}"


def markdown_table(corner: str, heads: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table. The first column is aligned to the left, all others to the right."""
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=heads).rename_axis(corner)
    align = ("left", *["right"] * len(heads))
    return frame.reset_index().to_markdown(index=False, disable_numparse=True, colalign=align)
