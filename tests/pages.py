"""A small results folder for tests of the page, with labels that try to be markup."""

import json
import shutil
from pathlib import Path

from bench import store

ROOT = Path(__file__).resolve().parents[1]
EVIL = "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 1'>"


def results_in(folder: Path) -> Path:
    """Two shipped experiments and a published.csv; a line, a note and a source are `EVIL`."""
    for name in ("fmnist-224", "training"):
        shutil.copytree(ROOT / "results" / name, folder / name)
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


def _evil(line: str) -> str:
    return EVIL if line == "trained CRS, native" else line
