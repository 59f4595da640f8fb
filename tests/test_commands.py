"""Every command that the project tells a reader to type is one: in prose, messages and the page.

`test_docs.py` reads and runs the blocks of the pages. Here are the commands in inline code, in
texts and docstrings of the package, and in the page's script. Words in capitals and `{...}` stand
for a value. A command with an argument must be whole. One with options alone is a mention of them,
and so is one with `...`.
"""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from bench import cli
from bench.cli.experiments import experiments_here

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md",
         *sorted((ROOT / "bench" / "docs").glob("*.*"))]  # fmt: skip
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?<!/)crs-bench (?=[a-z-])([^`\n]*)")
END = re.compile(r"(?<!\.)[,;:.]$|[,;:)](?= )|\.(?= [A-Z])| (?=[(>])")  # of a command in a message


def inline(text: str) -> list[str]:
    """The inline code of a page, each on one line."""
    found = re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text))
    return [" ".join(one.split()) for one in found]


def strings(tree: ast.AST) -> Iterator[str]:
    """All texts of a module on one line each, with VALUE in place of what an f-string fills in."""
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
             for part in ast.walk(node) if part is not node}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [one.value if isinstance(one, ast.Constant) else "VALUE" for one in node.values]
            yield " ".join("".join(map(str, parts)).split())
        elif isinstance(node, ast.Constant) and id(node) not in inner:
            yield " ".join(str(node.value).split())


def texts() -> dict[str, list[str]]:
    """File -> the texts of it in which commands are looked for."""
    found = {str(path.relative_to(ROOT)): inline(path.read_text()) for path in PAGES}
    for path in sorted((ROOT / "bench").rglob("*.py")):
        found[str(path.relative_to(ROOT))] = list(strings(ast.parse(path.read_text())))
    script = (ROOT / "bench" / "page" / "assets" / "page.js").read_text()
    found["page.js"] = re.sub(r"\$\{[^}]*\}", "VALUE", script).splitlines()
    return found


TEXTS = texts()
ALL = [(file, text) for file, several in TEXTS.items() for text in several]


def commands(file: str, text: str) -> Iterator[list[str]]:
    """Words of each command of a text, without `crs-bench`."""
    for said in COMMAND.findall(text):
        cut = END.split(said, maxsplit=1)[0] if file.endswith(".py") else said
        yield shlex.split(cut)


def check(words: list[str]) -> None:
    """Fail unless the command line takes these words."""
    command, rest = typer.main.get_command(cli.app), [word for word in words if word != "..."]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, words
        command, rest = command.commands[rest[0]], rest[1:]
    valued = {name for one in command.params if not getattr(one, "is_flag", True)
              for name in one.opts}  # fmt: skip
    rest += ["VALUE"] if rest and rest[-1] in valued else []
    context = command.context_class(command, info_name=words[0])
    given, more, _ = command.make_parser(context).parse_args(rest)  # raises for an unknown option
    assert not more, f"too many arguments: {words}"
    arguments = [one.name for one in command.params if one.param_type_name == "argument"]
    if "..." not in words and any(given.get(name) for name in arguments):
        missing = [one.name for one in command.params if one.required and not given.get(one.name)]
        assert not missing, f"{words} lacks {missing}"


@pytest.mark.parametrize("file", [file for file, several in TEXTS.items()
                                  if any(COMMAND.search(text) for text in several)])  # fmt: skip
def test_commands_in_texts_are_known(file: str) -> None:
    for text in TEXTS[file]:
        for words in commands(file, text):
            check(words)


def test_the_check_finds_what_is_wrong() -> None:
    for wrong in ("measure MODEL --levels 40", "run quick --nope", "nope", "sample a b c"):
        with pytest.raises(Exception, match="lacks|No such option|nope|too many"):
            check(wrong.split())
    said = list(commands("a.py", "gone; first: crs-bench run NAME --nfe 5, or else (see there)"))
    assert said == [["run", "NAME", "--nfe", "5"]]
    assert len([words for each in ALL for words in commands(*each)]) > 120


def test_options_in_messages_are_options_of_a_verb() -> None:
    root = typer.main.get_command(cli.app)
    verbs = [root, *root.commands.values(), *root.commands["bench"].commands.values()]
    known = {name for verb in verbs for one in verb.params for name in one.opts}
    known |= {"--help", "--head"}  # of every verb; of `ray start`
    for file, text in ALL:
        if file.endswith(".py"):
            unknown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*(?![\w=-])", text)) - known
            assert not unknown, f"{file}: {unknown} in {text!r}"


def test_other_programs_that_texts_name_are_here() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for file, text in [*ALL, *((path.name, line) for path in PAGES
                               for line in path.read_text().splitlines())]:  # fmt: skip
        for names in re.findall(r"pip install.*(?:crs-bench|\.)\[([\w,]+)\]", text):
            assert set(names.split(",")) <= extras.keys(), f"{file}: {text}"
        for module in re.findall(r"python -m (bench[\w.]*)", text):
            path = ROOT / module.rstrip(".").replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"{file}: {text}"
        for script in re.findall(r"python (tests/[\w/]+\.py)", text):
            assert (ROOT / script).is_file(), f"{file}: {text}"
        for said in re.findall(r"\./reproduce\.sh ([a-z][^`#]*)", text):
            first, *rest = shlex.split(said)
            assert first in {"setup", "test", *experiments_here()}, f"{file}: {text}"
            check(["run", first, *rest])
