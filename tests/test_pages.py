"""The pages about the shipped results say what the records say."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from jinja2 import nodes
from test_report import cell, save

from bench import store
from bench.benchmarks import Reading, content
from bench.report import pages
from bench.report.costs import Costs, pace, spent
from bench.report.frame import Results

TEMPLATES = sorted(pages.DOCS.glob("*.md.j2"))
# what may stand in a template as it is: links, code, names of samplers, values of xi, notation
KNOWN = re.compile(
    r"\]\([^)]*\)|`[^`]*`|\(\d[MS]\)|DPMpp2M"
    r"|xi (?:=|is) ?[\d.]+|xi=[\d.]+|rho=7|sigma_max \(40\)"
    r"|cifar10(?:-q75|-training)?|CIFAR-10|quality 75|FD-EffNet2|EfficientNet-Lite2"
    r"|NFE 20|95 % t"
    r"|NFE 5 to 250|LSUN Horse 256"  # what the paper's abstract says
    r"|LSUN 256|b?float(?:16|32)|(?:tf|TF)32|\[-1, 1\]"
)


def test_pages_are_what_the_records_say() -> None:
    for path, text in pages.pages().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name} is not what its template and the records give; write it again: "
            "python -m bench.report.pages"
        )


def test_pages_are_about_shipped_experiments_only(tmp_path: Path) -> None:
    """What a user runs in the checkout, `quick` for example, changes no page."""
    (tmp_path / "results").mkdir()
    save(tmp_path / "results" / "quick", [cell("native", 5, "1", 3.0)])
    shutil.copytree(pages.ROOT / "results" / "ablation", tmp_path / "results" / "ablation")
    known = pages.environment(tmp_path)[0].globals["experiments"]
    assert isinstance(known, dict) and set(known) == {"ablation"}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_hold_no_number_of_their_own(path: Path) -> None:
    made, _ = pages.environment()
    tree = made.parse(path.read_text(encoding="utf-8"))
    for block in tree.find_all(nodes.Block):
        block.body = [] if block.name.endswith("by_hand") else block.body
    text = "".join(data.data for data in tree.find_all(nodes.TemplateData))
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    bare = [line for line in text.splitlines() if re.search(r"\d", KNOWN.sub("", line))]
    assert not bare, f"let the records say these numbers: {bare}"


@pytest.fixture
def facts(tmp_path: Path) -> pages.Facts:
    """native has 10, 20, 30 at NFE 5, 8, 10; CRS has 9, 21, 29, on three blocks each."""
    fds = {"native": (10.0, 20.0, 30.0), "CRS(v_x)": (9.0, 21.0, 29.0)}
    cells = [cell(line, nfe, block, fd + shift) for line, column in fds.items()
             for nfe, fd in zip((5, 8, 10), column, strict=True)
             for block, shift in zip("123", (-1.0, 0.0, 1.0), strict=True)]  # fmt: skip
    folder = save(tmp_path / "toy", cells)
    return pages.Facts(Results(store.load_plan(folder), store.load_records(folder)))


def test_facts_are_those_of_the_tables(facts: pages.Facts) -> None:
    assert facts.value("CRS(v_x)", "DDIM", 5, 8) == "9.00 and 21.00"
    assert facts.value("native", "DDIM", 5, metric="precision") == "0.900"
    assert facts.leads("CRS(v_x)", "DDIM") == "NFE 5 and 10" == facts.told("CRS(v_x)", "DDIM")
    assert facts.leads("native", "DDIM") == "NFE 8" == facts.told("CRS(v_x)", "DDIM", 1)
    assert facts.first("DDIM", 5) == "CRS(v_x)" and facts.baselines == ("native",)
    assert facts.summary["rank"]["native"] == pytest.approx(5 / 3)
    assert facts.tries("CRS(v_x)") == 4 and facts.tuned("CRS(v_x)", "DDIM") == "0.5"
    assert "**9.00** ± 2.48" in facts.table(["CRS(v_x)"], [5])


def test_two_lines_are_compared_in_pairs(facts: pages.Facts) -> None:
    assert facts.against("CRS(v_x)", "native", "DDIM") == "NFE 5 and 10"
    assert facts.against("CRS(v_x)", "native", "DDIM", 1) == "NFE 8"
    assert facts.against("CRS(v_x)", "Karras", "DDIM") == "no interval"  # it was not run


def test_records_are_counted(facts: pages.Facts) -> None:
    assert facts.done == (18, 18) and facts.tried == (0, 0) and facts.missing == []
    whole = facts.results
    gone = {row["key"] for row in whole.plan["rows"] if row["role"] == "score" and row["nfe"] == 8}
    fewer = {key: one for key, one in whole.records.items() if key not in gone}
    left = pages.Facts(Results(whole.plan, fewer))
    assert left.done == (12, 18) and left.missing == [8]
    assert left.against("CRS(v_x)", "native", "DDIM") == "every NFE from 5 to 10"
    some = {key: {**one, "shard": 4 if at < 5 else None}
            for at, (key, one) in enumerate(fewer.items())}  # fmt: skip
    assert pages.Facts(Results(whole.plan, some)).sharded == (5, 12)


def test_what_is_not_there_is_named(facts: pages.Facts) -> None:
    for ask, words in (
        (lambda: facts.value("Karras", "DDIM", 5), "toy .* has no fd of 'Karras', DDIM, NFE 5"),
        (lambda: facts.value("native", "DDIM", 7), "no fd of DDIM at NFE 7"),
        (lambda: facts.leads("native", "Heun"), "no sampler 'Heun'"),
        (lambda: facts.tuned("native", "DDIM"), "tuned no line 'native' under DDIM"),
        (lambda: facts.converged(), "no converged run of m"),
    ):
        with pytest.raises(ValueError, match=words):
            ask()


def test_costs_are_read_from_records(tmp_path: Path) -> None:
    one = Reading("DDIM()", 2.0, {"images": 6, "overhead": 0.25, "memory_mib": 1000.0})
    one = one.beside("other", 5.0, overhead=0.5, difference=1e-3)
    fast = Reading("DDIM(), compiled", 1.0, {"overhead": 0.75, "difference": 2e-3})
    store.write_json(tmp_path / "a.json", {"readings": content([one, fast])})
    costs = Costs(tmp_path)
    assert (costs.seconds("a", "DDIM()"), costs.seconds("a", "DDIM()", "other")) == ("2 s", "5 s")
    assert costs.rate("a", "DDIM()") == 3 and costs.rate("a", "DDIM()", "other") == 1.2
    assert costs.ratio("a", "DDIM()", "other") == 2.5
    assert costs.overheads("a") == [25] and costs.overheads("a", "other") == [50]
    assert costs.memory("a", "DDIM()") == "1.05 GB" and costs.difference("a") == 2e-3
    assert costs.has("a", "DDIM()") and not costs.has("a", "Heun()") and not costs.has("b", "x")
    for ask, words in (
        (lambda: costs.record("b"), "has no record 'b'"),
        (lambda: costs.reading("a", "Heun()"), "'a' has no one reading 'Heun\\(\\)'"),
        (lambda: costs.ratio("a", "DDIM()", "else"), "no one reading 'DDIM\\(\\)' else"),
    ):
        with pytest.raises(ValueError, match=words):
            ask()


def test_seconds_of_an_experiment_are_summed(facts: pages.Facts) -> None:
    done = [{"nfe": nfe, "cell": {"seeds": [0, 10]}, "seconds": {"sample": s, "score": 1.0}}
            for nfe, s in ((5, 1.0), (5, 4.0), (5, 2.0), (8, 3.0))]  # fmt: skip
    done.append({"nfe": 8, "cell": {"seeds": [0, 99]}, "seconds": {"sample": 9.0, "score": 0.0}})
    some = replace(facts.results)
    some.__dict__["done"] = done
    assert dict(pace(some, 10)["sample"]) == {5: 2.0, 8: 3.0}
    assert spent(some) == {"images": 139, "evaluations": 1022, "sample": 19.0, "score": 4.0}


def test_nfes_in_words() -> None:
    every = [5, 6, 8, 10]
    assert pages.where([], every) == "no NFE" and pages.where([8], every) == "NFE 8"
    assert pages.where(every, every) == "every NFE from 5 to 10"
    assert pages.where([6, 8, 10], every) == "NFE 6 to 10"
    assert pages.where([5, 8, 10], every) == "NFE 5, 8 and 10"


def test_a_false_claim_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("results.md.j2", "readme-results.md.j2"):
        claim = f"{{% set _ = so(1 > 2, 'claim of {name}') %}}A sentence."
        (tmp_path / name).write_text(claim)
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    with pytest.raises(ValueError, match="claim of readme-results.md.j2; claim of results.md.j2"):
        pages.pages(tmp_path)


def test_paragraphs_are_filled_and_tables_are_not() -> None:
    text = "# A\n\none\ntwo\n\n\n\n* x\n  y\n* z\n\n| a |\n|---|\nend\n"
    assert pages.wrapped(text, 20) == "# A\n\none two\n\n* x y\n* z\n\n| a |\n|---|\nend\n"


def test_code_stays_as_it_is() -> None:
    code = "```bash\na long command  # " + "x" * 40 + "\nb\n```\n"
    assert pages.wrapped(f"one\ntwo\n\n\n{code}\nend\n", 20) == f"one two\n\n{code}\nend\n"
