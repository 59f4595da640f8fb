"""Numbers that other authors published. They are in `published.csv`, beside the results folders."""

import csv
from pathlib import Path

Row = dict[str, str]  # model, dataset, space, sampler, schedule, nfe, fid, precision, recall, ...
_COLUMNS = ("model", "sampler", "schedule", "nfe", "fid", "precision", "recall", "note", "source")
_HEADS = ("Model", "Sampler", "Schedule", "NFE", "FID", "Precision", "Recall", "Note", "Source")


def read(folder: Path, dataset: str) -> list[Row]:
    """The rows of a data set.

    Arguments:
        folder: the results folder of an experiment; `published.csv` lies beside it.
        dataset: as in the column "dataset"; "": none.

    Returns:
        One dict for each row. Empty without a file or without a data set.

    Raises:
        ValueError: the file lacks a column.
    """
    path = folder.parent / "published.csv"
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
