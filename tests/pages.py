"""A small results folder for tests of the page, with labels that try to be markup."""

import json
import shutil
from pathlib import Path

from bench import store

ROOT = Path(__file__).resolve().parents[1]
EVIL = "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 1'>"


def results_in(folder: Path) -> Path:
    """Two shipped experiments and a published.csv; a line, a note and a source are `EVIL`."""
    _at_224_px(folder / "fmnist-224")
    shutil.copytree(ROOT / "results" / "training", folder / "training")
    training = folder / "training"
    plan = store.load_plan(training)
    plan["lines"] = {_evil(line): about for line, about in plan["lines"].items()}
    plan["rows"] = [row | {"line": _evil(row["line"])} for row in plan["rows"]]
    plan["note"] = EVIL
    (training / "plan.json.gz").unlink()
    (training / "plan.json").write_text(json.dumps(plan))
    (folder / "published.csv").write_text(
        "model,dataset,space,sampler,schedule,nfe,fid,precision,recall,note,source\n"
        f'EDM,fashion-mnist,pixel,heun,karras,10,1.97,,,"{EVIL}",paper A\n'
        f"EDM,fashion-mnist,pixel,heun,karras,35,2.5,0.7,0.5,,{EVIL}\n"
    )
    return folder


def _at_224_px(folder: Path) -> None:
    """60 cells of `fmnist`, as if their features were of another size: another protocol."""
    source = ROOT / "results" / "fmnist"
    plan, records = store.load_plan(source), store.load_records(source)
    lines = ("native", "log-SNR", "Karras(rho=7)", "CRS(v_x, xi=1)", "CRS(v_x, xi tuned, angle)")
    plan["rows"] = [row for row in plan["rows"] if row["role"] == "score" and row["line"] in lines
                    and row["n"] == 10_000 and row["nfe"] in (5, 10, 20)]  # fmt: skip
    for key in {row["key"] for row in plan["rows"]}:
        for score in records[key]["scores"].values():
            if "reference" in score:
                score |= {"features": "effnet-lite0-224", "reference_digest": "0" * 64}
        strip = source / "records" / f"{key}.png"
        store.save_record(folder, records[key], strip.read_bytes() if strip.is_file() else None)
    store.save_plan(folder, plan)


def _evil(line: str) -> str:
    return EVIL if line == "trained CRS, native" else line
