"""The pages about the shipped results, written from the records. For a checkout only:

    python -m bench.report.pages

Each page is a Jinja template, `bench/docs/*.md.j2`. It asks the `Facts` of an experiment for each
number. Write no number into a template by hand: a test finds it. A sentence that a new run can make
wrong stands beside `{{ so(CONDITION, "what it claims") }}`. Numbers that no record can hold stand
in a block whose name ends in `by_hand`.
"""

import re
import textwrap
from functools import cache, cached_property
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from bench import store
from bench.report import costs, published, summary
from bench.report.frame import Results, fair
from bench.report.intervals import LEAST, LEVEL, half_width
from bench.report.layout import markdown_table, shown
from bench.report.lines import paper_name
from bench.report.study import Trainings
from bench.report.tables import number

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "bench" / "docs"
START, END = "<!-- written by: python -m bench.report.pages -->\n", "<!-- end -->\n"


class Facts:
    """What a page may ask about one experiment: numbers and names, as tables show them.

    All of it is about the first group of the plan: its first model and number of images. n chooses
    another number of images.
    """

    def __init__(self, results: Results, n: int = 0) -> None:
        self.results = results
        self.model, first = next(results.groups())
        self.n = n or first

    @property
    def blocks(self) -> int:
        """The most seed blocks of a cell."""
        return self.results.blocks

    @property
    def samplers(self) -> list[str]:
        """Their names, in plan order."""
        return list(dict.fromkeys(sampler for sampler, _ in self._columns))

    @property
    def lines(self) -> list[str]:
        """The schedule lines, in plan order."""
        return list(dict.fromkeys(self.results.scored(self.model, self.n).line))

    @property
    def baselines(self) -> tuple[str, ...]:
        """The lines that others are compared with, in plan order."""
        return tuple(line for line in self.lines if self.results.baseline(line))

    @property
    def done(self) -> tuple[int, int]:
        """How many scored cells have a record, and how many there are."""
        return self._recorded("score")

    @property
    def tried(self) -> tuple[int, int]:
        """The same of the cells of tuned lines on the tuning seeds."""
        return self._recorded("tune")

    @property
    def missing(self) -> list[int]:
        """The NFEs of scored cells without a record, from low to high."""
        return sorted({row["nfe"] for row in self.results.plan["rows"] if row["role"] == "score"
                       and row["key"] not in self.results.records})  # fmt: skip

    @property
    def sharded(self) -> tuple[int, int]:
        """How many records of the plan were made in shards, and how many records there are."""
        return sum(one["shard"] is not None for one in self.results.done), len(self.results.done)

    @property
    def machines(self) -> str:
        """The devices, precisions and PyTorch versions of the records."""
        return listed(sorted({
            f"{one['device']}, {one['cell']['dtype']}, torch {one['versions']['torch']}"
            for one in self.results.done
        }))  # fmt: skip

    def own(self, column: pd.Series) -> int:
        """The sum of a column of the summary over the lines that are no baselines."""
        return int(column[[line for line in column.index if line not in self.baselines]].sum())

    def of(self, n: int) -> "Facts":
        """The facts of the group with this number of images."""
        return Facts(self.results, n)

    def mean(self, line: str, sampler: str, nfe: int, metric: str = "fd") -> float:
        """The mean over seed blocks. ValueError: it is not there."""
        table = self._values(sampler, nfe, metric)
        if line not in table.index:
            raise ValueError(f"{self._name} has no {metric} of {line!r}, {sampler}, NFE {nfe}")
        return float(table.loc[line].mean())

    def value(self, line: str, sampler: str, *nfes: int, metric: str = "fd") -> str:
        """Means as tables show them: `152.7, 66.34 and 48.31`."""
        return listed([shown(self.mean(line, sampler, nfe, metric), metric) for nfe in nfes])

    def gain(self, line: str, sampler: str, nfe: int) -> float:
        """How far the FD of a line lies below that of `native`."""
        return self.mean("native", sampler, nfe) - self.mean(line, sampler, nfe)

    def first(self, sampler: str, nfe: int, metric: str = "fd", among: tuple[str, ...] = ()) -> str:
        """The best line at one NFE, of all lines or of some."""
        means = self._means(sampler, nfe, metric)
        means = means[[line for line in means.index if not among or line in among]]
        return str(means.idxmax() if self.results.higher_is_better(metric) else means.idxmin())

    def leads(
        self, line: str, sampler: str, metric: str = "fd", among: tuple[str, ...] = ()
    ) -> str:
        """The NFEs at which a line is the best, of all lines or of itself and some.

        Without `among`, NFEs at which some lines were not run do not count.
        """
        among = (line, *among) if among else ()
        every = [nfe for nfe in self.nfes(sampler) if line in self._means(sampler, nfe, metric)
                 and (among or nfe in self.complete(sampler))]  # fmt: skip
        return where([n for n in every if self.first(sampler, n, metric, among) == line], every)

    def told(self, line: str, sampler: str, sign: int = -1) -> str:
        """The NFEs at which the interval of the difference to the best baseline leaves 0 out.

        NFEs at which some lines were not run do not count.
        sign: -1: the line has the lower FD. 1: it has the higher FD.
        """
        found = self._differences.sort_values("nfe")
        found = found[(found.line == line) & (found.sampler == sampler)]
        found = found[found.nfe.isin(self.complete(sampler)) & found.half.notna()]
        if found.empty:
            return "no interval"
        sure = found[sign * found.difference - found.half > 0]
        return where([int(nfe) for nfe in sure.nfe], [int(nfe) for nfe in found.nfe])

    def against(
        self, line: str, rival: str, sampler: str, sign: int = -1, metric: str = "fd"
    ) -> str:
        """The NFEs at which the interval of the difference to another line leaves 0 out.

        NFEs at which one of the two has too few blocks do not count.
        sign: -1: the line has the lower score. 1: it has the higher one.
        """
        every, sure = [], []
        for nfe in self.nfes(sampler):
            found = self._values(sampler, nfe, metric).reindex([line, rival])
            pairs = (found.loc[line] - found.loc[rival]).dropna().to_numpy()
            if (half := half_width(pairs)) is not None:
                every.append(nfe)
                sure += [nfe] if sign * pairs.mean() > half else []
        return where(sure, every) if every else "no interval"

    def complete(self, sampler: str) -> list[int]:
        """The NFEs of a sampler at which every line was run, from low to high."""
        return [nfe for nfe in self.nfes(sampler)
                if len(self._means(sampler, nfe, "fd")) == len(self.lines)]  # fmt: skip

    def place(self, line: str, sampler: str) -> int:
        """The place of a line by geometric mean FD over the NFEs at which every line was run."""
        every = [self._means(sampler, nfe, "fd") for nfe in self.complete(sampler)]
        means = np.log(pd.concat(every, axis=1)).mean(axis=1).sort_values()
        return list(means.index).index(line) + 1

    def tuned(self, line: str, sampler: str) -> str:
        """The value that a tuned line was given under a sampler: `0.5`.

        With several ranges of NFEs: `0.5 (NFE 5 to 8) and 1 (NFE 9 to 250)`.
        """
        found = [one for one in self.results.plan["chosen"]
                 if (one["line"], one["sampler"]) == (line, sampler)]  # fmt: skip
        if not found:
            raise ValueError(f"{self._name} tuned no line {line!r} under {sampler}")
        values = []
        for one in found:
            inside = one["schedule"].partition("(")[2].rstrip(")").split(", ")
            value = next(part.partition("=")[2] for part in inside if "=" in part)
            values.append(f"{value} (NFE {one['nfe']})" if len(found) > 1 else value)
        return listed(values)

    def tries(self, line: str) -> int:
        """How many schedules a tuned line was chosen from."""
        return int(next(x["tries"] for x in self.results.plan["chosen"] if x["line"] == line))

    def converged(self, model: str = "", block: str = "") -> str:
        """FD of converged samples: the mean over all blocks that have as many images, or of one."""
        found = [self.results.scores(row)["fd"]["value"] for row in self.results.converged
                 if self.results.records[row["key"]]["cell"]["model"] == (model or self.model)
                 and row["n"] == self.n and block in ("", row["block"])]  # fmt: skip
        if not found:
            raise ValueError(f"{self._name} has no converged run of {model or self.model}")
        return shown(float(np.mean(found)), "fd")

    def below(self) -> tuple[int, int]:
        """How many cells have an FD below that of converged samples, and of how many cells."""
        scores = [score for sampler, nfe in self._columns for score in self.results.column(
            self.model, self.n, sampler, nfe, "fd").values() if score]  # fmt: skip
        return sum(score.beyond for score in scores), len(scores)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """`summary.table` by line."""
        every = summary.rows(self.results, self.model, self.n)
        return summary.table(self.results, self.model, self.n, every).set_index("line")

    def table(
        self, lines: list[str], nfes: list[int], metric: str = "fd",
        samplers: list[str] | None = None,
    ) -> str:  # fmt: skip
        """A part of the tables of `table.md`, in Markdown. samplers: by default all."""
        cells = {}
        for sampler in samplers or self.samplers:
            columns = [self.results.column(self.model, self.n, sampler, nfe, metric)
                       for nfe in nfes]  # fmt: skip
            for line in lines:
                cells[f"{paper_name(sampler)}, {line}"] = [
                    number(column.get(line), metric, "**{}**".format, "±") for column in columns
                ]
        return markdown_table("NFE", [str(nfe) for nfe in nfes], cells)

    def nfes(self, sampler: str) -> list[int]:
        """The NFEs of a sampler, from low to high. ValueError: it has none."""
        found = sorted(nfe for one, nfe in self._columns if one == sampler)
        if not found:
            raise ValueError(f"{self._name} has no sampler {sampler!r}")
        return found

    @cached_property
    def _columns(self) -> list[tuple[str, int]]:
        return self.results.columns(self.model, self.n)

    @cached_property
    def _differences(self) -> pd.DataFrame:
        found = summary.differences(self.results)
        here = (found.model == self.model) & (found.n == self.n) & (found.metric == "fd")
        return found[here]

    def _recorded(self, role: str) -> tuple[int, int]:
        keys = {row["key"] for row in self.results.plan["rows"] if row["role"] == role}
        return len(keys & self.results.records.keys()), len(keys)

    @property
    def _name(self) -> str:
        return f"the experiment {self.results.plan['experiment']} ({self.n:,} images a cell)"

    @cache  # noqa: B019 - a page asks for the same columns often
    def _values(self, sampler: str, nfe: int, metric: str) -> pd.DataFrame:
        """Scores at one NFE [lines, blocks]."""
        if metric not in self.results.metrics or (sampler, nfe) not in self._columns:
            raise ValueError(f"{self._name} has no {metric} of {sampler} at NFE {nfe}")
        return self.results.values(self.model, self.n, sampler, nfe, metric).dropna(how="all")

    def _means(self, sampler: str, nfe: int, metric: str) -> pd.Series:
        """Mean scores of lines at one NFE, on the seed blocks that all of them have."""
        return fair(self._values(sampler, nfe, metric)).mean(axis=1)


def listed(words: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def where(some: list[int], every: list[int]) -> str:
    """NFEs in words: `every NFE from 5 to 50`, `NFE 5 to 10`, `NFE 5 and 8`, `no NFE`."""
    if not some:
        return "no NFE"
    if some == every and len(every) > 1:
        return f"every NFE from {every[0]} to {every[-1]}"
    start = every.index(some[0])
    if len(some) > 2 and some == every[start : start + len(some)]:
        return f"NFE {some[0]} to {some[-1]}"
    return f"NFE {listed([str(nfe) for nfe in some])}"


def environment(root: Path = ROOT) -> tuple[jinja2.Environment, list[str]]:
    """Jinja with the facts of all shipped experiments, and the list of false claims.

    They are those in `root / "results"` that `crs-bench pack` packed. A user's own are not.

    An experiment has its own name, with _ in place of -: `fmnist_latent`. So have the `Trainings`
    of a study: `cifar10_training`. `experiments` has all experiments. `folders` has the names of
    all folders. `published(data set, model)` is a row of published.csv. `costs` has the records of
    `crs-bench bench`, and `codec` the scores of cifar-codec's reconstructions.
    """
    folders = sorted((root / "results").glob("*/"))
    packed = {folder.name: Results(store.load_plan(folder), store.load_records(folder))
              for folder in folders if store.is_packed(folder)}  # fmt: skip
    facts = {name: Facts(results) for name, results in packed.items() if len(results.begun)}
    false: list[str] = []

    def so(holds: bool, claim: str) -> str:
        """Nothing; a claim that does not hold is kept."""
        false.extend([] if holds else [claim])
        return ""

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DOCS), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["paper_name"] = paper_name
    studies = {folder.name: Trainings.read(folder) for folder in folders
               if (folder / "study.json").is_file() and store.has_pack(folder)}  # fmt: skip
    made.globals |= {name.replace("-", "_"): one for name, one in {**facts, **studies}.items()}
    codec = root / "results" / "cifar10-latent-training" / "reconstruction.json"
    made.globals["codec"] = store.read_json(codec) if codec.is_file() else {}
    made.globals |= {"experiments": facts, "folders": [folder.name for folder in folders],
                     "published": _published, "so": so, "listed": listed,
                     "LEVEL": f"{100 * LEVEL:g} %", "LEAST": LEAST,
                     "costs": costs.Costs(root / "results" / "costs"), "short": costs.short,
                     "pace": costs.pace, "spent": costs.spent, "million": 10**6,
                     "NEAR": summary.NEAR}  # fmt: skip
    return made, false


def _published(dataset: str, model: str) -> dict[str, str]:
    return next(row for row in published.read(ROOT / "results" / dataset, dataset)
                if row["model"] == model)  # fmt: skip


def wrapped(text: str, width: int = 100) -> str:
    """Markdown with paragraphs and list items filled. Tables, headings, images and code stay."""
    parts = re.split(r"(^```.*?^```\n)", text, flags=re.DOTALL | re.MULTILINE)
    found = [part if part.startswith("```") else _filled(part, width) for part in parts]
    return "\n".join(part for part in found if part.strip())


def _filled(text: str, width: int) -> str:
    out: list[str] = []
    for line in text.splitlines():
        if not line.strip() and out and not out[-1].strip():
            continue
        start = not line.strip() or line.startswith(("* ", "#", "|", "!", "<"))
        if start or not out or not out[-1].strip() or out[-1].startswith(("#", "|", "!", "<")):
            out.append(line)
        else:
            out[-1] += " " + line.strip()
    filled = "\n".join(
        line if line.startswith(("#", "|", "!", "<")) else textwrap.fill(
            " ".join(line.split()), width, subsequent_indent="  " * line.startswith("* "),
            break_long_words=False, break_on_hyphens=False,
        )
        for line in out
    )  # fmt: skip
    return filled.strip("\n") + "\n"


def pages(root: Path = ROOT) -> dict[Path, str]:
    """The pages and what should stand in them.

    Raises:
        ValueError: a claim does not hold, or a number is not there. The message names all claims.
    """
    made, false = environment(root)
    written = {
        template.removesuffix(".j2"): wrapped(made.get_template(template).render())
        for template in made.list_templates(extensions=["j2"])
    }
    if false:
        raise ValueError("the records say otherwise; change the templates: " + "; ".join(false))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(START)
    whole = f"{before}{START}{written.pop('readme-results.md')}{END}{rest.partition(END)[2]}"
    return {ROOT / "README.md": whole} | {DOCS / name: text for name, text in written.items()}


if __name__ == "__main__":
    for path, text in pages().items():
        store.write_text(path, text)
