"""Numbers of others, from `published.csv`: cited, not run here."""

import csv
from pathlib import Path

Row = dict[str, str]  # model, dataset, space, sampler, schedule, nfe, fid, precision, recall, ...
_COLUMNS = ("model", "sampler", "schedule", "nfe", "fid", "precision", "recall", "note", "source")
_HEADS = ("Model", "Sampler", "Schedule", "NFE", "FID", "Precision", "Recall", "Note", "Source")
_PACKAGE = Path(__file__).resolve().parents[1]


def shipped() -> Path:
    """The file that comes with the project: in the package, or in results/ of a checkout."""
    inside = _PACKAGE / "shipped" / "published.csv"
    return inside if inside.is_file() else _PACKAGE.parent / "results" / "published.csv"


def read(folder: Path, dataset: str) -> list[Row]:
    """The rows of a data set.

    Arguments:
        folder: of an experiment. A `published.csv` beside it is read in place of the shipped one.
        dataset: none is asked for if it is "".

    Raises:
        ValueError: the file lacks a column.
    """
    beside = folder.parent / "published.csv"
    path = beside if beside.is_file() else shipped()
    if not dataset or not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lacking = [name for name in ("dataset", *_COLUMNS) if rows and name not in rows[0]]
    if lacking:
        raise ValueError(f"{path} has no column {', '.join(lacking)}; add it to the first line")
    return [row for row in rows if row["dataset"] == dataset]


def markdown(rows: list[Row], dataset: str) -> list[str]:
    """The section of the page with these rows. Empty without rows."""
    if not rows:
        return []
    table = ["| " + " | ".join(_HEADS) + " |", "|---|---|---|---:|---:|---:|---:|---|---|"]
    for row in rows:
        cells = (row[name].replace("|", "/") for name in _COLUMNS)
        table.append("| " + " | ".join(cells) + " |")
    return [
        f"## Published for {dataset}",
        "These numbers are copied from the sources. They were not run here. Compare them only with "
        "FID of 50,000 images, and read their protocol first.",
        "\n".join(table),
    ]


def points(rows: list[Row]) -> list[tuple[float, float]]:
    """(NFE, FID) of the rows that state both."""
    return [(float(row["nfe"]), float(row["fid"])) for row in rows if row["nfe"] and row["fid"]]


def levels(rows: list[Row]) -> list[tuple[str, float]]:
    """(model, FID) of the rows that state no NFE."""
    return [(row["model"], float(row["fid"])) for row in rows if row["fid"] and not row["nfe"]]
