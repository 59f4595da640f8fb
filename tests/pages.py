"""A small results folder for tests of the page, with labels that try to be markup."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from bench import store

ROOT = Path(__file__).resolve().parents[1]
EVIL = "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 1'>"


def results_in(folder: Path) -> Path:
    """Parts of two shipped experiments and a published.csv; a line, a note and a source are `EVIL`.

    60 cells of `fmnist` are there as if their features were of another size: another protocol.
    """
    few = ("native", "CRS(v_x, xi=1)")
    more = ("log-SNR", "Karras(rho=7)", "CRS(v_x, xi tuned, angle)")
    part(folder / "fmnist-224", "fmnist", (*few, *more), (5, 10, 20), _at_224_px)
    part(folder / "fmnist", "fmnist", few, (5, 10, 20))
    trained = tuple(f"CRS-trained, {line}" for line in few)
    part(folder / "cifar10", "cifar10", (*few, *trained), (20,))
    _make_evil(folder / "cifar10", "CRS-trained, native")
    (folder / "published.csv").write_text(
        "model,dataset,space,sampler,schedule,nfe,fid,precision,recall,note,source\n"
        f'EDM,fashion-mnist,pixel,heun,karras,10,1.97,,,"{EVIL}",paper A\n'
        f"EDM,fashion-mnist,pixel,heun,karras,35,2.5,0.7,0.5,,{EVIL}\n"
    )
    return folder


def part(
    folder: Path, name: str, lines: tuple[str, ...], nfes: tuple[int, ...],
    change: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:  # fmt: skip
    """The scored cells of 10,000 images that a shipped experiment has of some lines and NFEs.

    change: what becomes of a record.
    """
    source = ROOT / "results" / name
    plan, records = store.load_plan(source), store.load_records(source)
    plan["rows"] = [
        row for row in plan["rows"]
        if row["role"] == "score" and row["line"] in lines and row["n"] == 10_000
        and row["nfe"] in nfes and row["key"] in records
    ]  # fmt: skip
    for key in {row["key"] for row in plan["rows"]}:
        record = deepcopy(records[key])  # loaded records are shared
        change(record)
        strip = source / "records" / f"{key}.png"
        store.save_record(folder, record, strip.read_bytes() if strip.is_file() else None)
    store.save_plan(folder, plan)


def _at_224_px(record: dict[str, Any]) -> None:
    for score in record["scores"].values():
        if "reference" in score:
            score |= {"features": "effnet-lite0-224", "reference_digest": "0" * 64}


def _make_evil(folder: Path, evil: str) -> None:
    """Give the note and a line of an experiment the name `EVIL`."""
    plan = store.load_plan(folder)

    def renamed(line: str) -> str:
        return EVIL if line == evil else line

    plan["lines"] = {renamed(line): about for line, about in plan["lines"].items()}
    plan["rows"] = [row | {"line": renamed(row["line"])} for row in plan["rows"]]
    plan["note"] = EVIL
    store.save_plan(folder, plan)
