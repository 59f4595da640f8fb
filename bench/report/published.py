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
        raise ValueError(f"{path} has no column {', '.join(lacking)}")
    return [row for row in rows if row["dataset"] == dataset]


def markdown(rows: list[Row], dataset: str) -> list[str]:
    """A section of the page: none without rows."""
    if not rows:
        return []
    table = ["| " + " | ".join(_HEADS) + " |", "|---|---|---|---:|---:|---:|---:|---|---|"]
    for row in rows:
        cells = (row[name].replace("|", "/") for name in _COLUMNS)
        table.append("| " + " | ".join(cells) + " |")
    return [
        f"## Published for {dataset}",
        "Numbers of their authors, not run here; compare them with FID only, of 50,000 images, and "
        "after reading their protocol.",
        "\n".join(table),
    ]


def points(rows: list[Row]) -> list[tuple[float, float]]:
    """(NFE, FID) of the rows that have both."""
    return [(float(row["nfe"]), float(row["fid"])) for row in rows if row["nfe"] and row["fid"]]


def levels(rows: list[Row]) -> list[tuple[str, float]]:
    """(model, FID) of the rows that do not say their NFE."""
    return [(row["model"], float(row["fid"])) for row in rows if row["fid"] and not row["nfe"]]
