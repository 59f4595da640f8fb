"""The shape of the source: who imports whom, what has a docstring, what names a machine."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"

ROOMS = {
    "types", "process", "schedules", "measures", "samplers", "checkpoints", "data", "generate",
    "features", "metrics", "experiments", "run", "store", "report", "training", "names", "noise",
    "cli", "__main__", "fetch", "judge", "curves", "benchmarks", "zoo", "plan",
    "records", "shards", "engines", "machine", "rescore", "studies", "progress", "price", "page",
    "talk", "filling", "lazy",
}  # fmt: skip

# room -> the rooms that it may import
ALLOWED: dict[str, set[str]] = {
    "store": set(),
    "lazy": set(),  # torch, which every room may take from it
    "noise": set(),
    "machine": set(),
    "progress": set(),
    "talk": {"progress", "report", "store"},
    "types": {"store"},  # an identity is a digest
    "process": {"types"},
    "curves": {"types"},
    "data": {"types", "store"},
    "names": {"types"},
    "fetch": {"store"},
    "report": {"curves", "store"},
    "page": {"store", "report", "types"},
    "schedules": {"types", "process", "noise", "curves", "store"},
    "samplers": {"types", "process", "noise"},
    "metrics": {"types", "process", "noise", "machine"},
    "features": {"types", "process", "data", "machine", "store"},
    "measures": {
        "types", "curves", "features", "metrics", "noise", "samplers", "schedules", "store",
    },
    "checkpoints": {"types", "process", "machine", "names", "store"},
    "zoo": {"types", "process", "names", "store", "checkpoints"},
    "generate": {"types", "machine", "noise"},
    # the spine: each may import those above it
    "judge": {"data", "types", "features", "metrics", "names", "store"},
    "shards": {"types", "generate", "features", "store"},
    "plan": {
        "types", "checkpoints", "generate", "judge", "machine", "schedules", "shards", "store",
    },  # fmt: skip
    "records": {"types", "plan", "shards", "judge", "store", "machine", "features", "metrics",
                "data"},
    "rescore": {"types", "plan", "records", "shards", "judge", "store", "features"},
    "engines": {"types", "checkpoints", "features", "machine", "schedules", "shards", "store"},
    "filling": {"plan", "records", "shards", "machine", "engines", "progress"},
    "run": {"types", "checkpoints", "plan", "records", "shards", "store", "machine", "engines",
            "progress", "report", "talk", "filling"},
    "price": {"types", "checkpoints", "plan", "records", "store", "machine", "judge", "features",
              "generate", "samplers", "schedules", "zoo"},
    "training": {"types", "checkpoints", "data", "features", "generate", "measures", "process",
                 "samplers", "schedules", "store"},  # it shows samples on its way
    "studies": {"types", "checkpoints", "data", "features", "generate", "judge", "machine",
                "measures", "names", "noise", "process", "samplers", "schedules", "store",
                "training"},
    "experiments": {"types", "checkpoints", "data", "features", "judge", "measures", "samplers",
                    "schedules", "zoo"},
    # it times the parts, and whole cells by the path of a run
    "benchmarks": {"types", "checkpoints", "engines", "features", "generate", "judge", "machine",
                   "metrics", "names", "plan", "progress", "run", "samplers", "schedules", "store",
                   "zoo"},
    "cli": ROOMS - {"__main__"},
    "__main__": {"cli"},
}  # fmt: skip

# file -> the rooms that it may import besides: a card's family is looked up by its name
LAZY = {"checkpoints/family.py": {"zoo"}}


def rooms_present() -> dict[str, list[Path]]:
    """Each room under bench/ that exists, with its source files."""
    rooms: dict[str, list[Path]] = {}
    for path in sorted(BENCH.rglob("*.py")):
        top = path.relative_to(BENCH).parts[0]
        if top != "__init__.py":
            rooms.setdefault(top.removesuffix(".py"), []).append(path)
    return rooms


PRESENT = rooms_present()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a file imports, inside functions too."""
    parts = path.relative_to(BENCH).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # from . import x: climb from the folder that holds the file
                above = ["bench", *parts][: len(parts) + 1 - node.level]
                base = ".".join([*above, *([base] if base else [])])
            if base == "bench":
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_room_is_in_the_table() -> None:
    strangers = sorted(PRESENT.keys() - ALLOWED.keys())
    assert not strangers, (
        f"bench rooms not in the table: {', '.join(strangers)}; "
        "add it to the table (ROOMS and ALLOWED in tests/test_imports.py)"
    )
    assert ALLOWED.keys() == ROOMS


@pytest.mark.parametrize("room", sorted(PRESENT.keys() & ALLOWED.keys()))
def test_import_direction(room: str) -> None:
    wrong = []
    for path in PRESENT[room]:
        for line, name in imports(path):
            if name == "bench" or name.startswith("bench."):
                target = (name.split(".") + [""])[1]
                lazy = LAZY.get(path.relative_to(BENCH).as_posix(), set())
                if target in ("__version__", "lazy", room) or target in ALLOWED[room] | lazy:
                    continue
                wrong.append(f"{where(path, line)} {room} imports {target or 'bench itself'}")
    allowed = ", ".join(sorted(ALLOWED[room])) or "no other room"
    assert not wrong, f"{room} may import {allowed}:\n" + "\n".join(wrong)


def test_rooms_are_in_one_order() -> None:
    """No room reaches itself through others."""
    left = dict(ALLOWED)
    while left:
        free = [room for room, others in left.items() if not others & left.keys() - {room}]
        assert free, f"these rooms import each other: {', '.join(sorted(left))}"
        left = {room: others for room, others in left.items() if room not in free}


def test_store_imports_only_the_standard_library() -> None:
    wrong = [
        f"{where(path, line)} {name}"
        for path in PRESENT.get("store", [])
        for line, name in imports(path)
        if name.split(".")[0] not in sys.stdlib_module_names | {"bench"}
    ]
    assert not wrong, "\n".join(wrong)


def test_report_imports_no_torch() -> None:
    torch_based = {"torch", "torchvision", "torch_fidelity", "cleanfid", "timm", "diffusers"}
    wrong = [
        f"{where(path, line)} {name}"
        for room in ("report", "store", "page")
        for path in PRESENT.get(room, [])
        for line, name in imports(path)
        if name.split(".")[0] in torch_based or name == "safetensors.torch"
    ]
    assert not wrong, "\n".join(wrong)


# file -> what it may ask of an object that is none of ours, and why
ASKED: dict[str, set[str]] = {
    "data/decode.py": {"image.n_frames"},  # Pillow has it for some formats only
    "metrics/points.py": {"torch.cpu.get_capabilities"},  # not in every torch
    "names.py": {"module.name"},  # of a module of the user's
    "cli/docs.py": {"what.__func__"},  # Python's own class methods have it
    "features/inception.py": {"stage.bn"},  # torchvision's stages are of two kinds
}


def asked(path: Path) -> Iterator[tuple[int, str]]:
    """Line and `object.name` of each hasattr, and of each getattr with a default, in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3):
            what, name = node.args[:2]
            text = name.value if isinstance(name, ast.Constant) else ast.unparse(name)
            yield node.lineno, f"{ast.unparse(what)}.{text}"


def test_no_trait_is_optional() -> None:
    """What a part may leave out has its default in the base class, where it is seen and typed."""
    files = {path.relative_to(BENCH).as_posix(): path for path in BENCH.rglob("*.py")}
    found = {name: list(asked(path)) for name, path in files.items()}
    wrong = [f"{where(files[name], line)} {what}" for name, each in sorted(found.items())
             for line, what in each if what not in ASKED.get(name, set())]  # fmt: skip
    assert not wrong, "give the base class a default instead:\n" + "\n".join(wrong)
    gone = {name: whats - {what for _, what in found[name]} for name, whats in ASKED.items()}
    assert not any(gone.values()), f"no longer asked; take it out of ASKED: {gone}"


def test_public_names_have_docstrings() -> None:
    bare = [
        f"{where(path, node.lineno)} {node.name}"
        for path in sorted(BENCH.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not bare, "no docstring:\n" + "\n".join(bare)


def tracked_files() -> list[Path]:
    """The files that git tracks; without git, every file outside hidden and built folders."""
    if (ROOT / ".git").exists():
        try:
            listed = subprocess.run(
                ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
            )
            names = listed.stdout.decode().split("\0")
            if any(names):
                return [ROOT / name for name in names if name and (ROOT / name).is_file()]
        except (OSError, subprocess.CalledProcessError):
            pass
    built = re.compile(r"(^|/)(\.(?!ci/|gitignore$)|__pycache__/|build/|dist/|[^/]*\.egg-info/)")
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not built.search(path.relative_to(ROOT).as_posix())
    ]


HEAVY = {"torch", "diffusers", "torchvision", "pandas", "matplotlib", "triton", "scipy", "timm"}
KARRAS = "schedule fmnist-pixel --schedule Karras(rho=7)"


@pytest.mark.parametrize(
    ("words", "never"),
    [
        ("--help", HEAVY | {"numpy"}),
        ("--version", HEAVY | {"numpy"}),
        ("docs", HEAVY | {"numpy"}),
        ("records fmnist", HEAVY),
        ("list", HEAVY),
        ("list samplers", HEAVY),
        ("list models", HEAVY - {"torch"}),  # of each preset: the network is in the same module
        (KARRAS, HEAVY),
        (f"{KARRAS} --json", HEAVY),
        (f"{KARRAS} --format diffusers", HEAVY),
        ("schedule fmnist-pixel --schedule ConstantRate(v_x)", HEAVY - {"scipy"}),
        ("schedule fmnist-pixel --schedule CheapestPath(gits)", HEAVY),
        ("schedule fmnist-pixel --schedule Karrass", HEAVY),
        ("run nosuch", HEAVY),
    ],
)
def test_a_verb_imports_only_what_it_uses(words: str, never: set[str]) -> None:
    code = (
        "import sys; from bench import cli\n"
        "try: cli.main()\n"
        "finally: print('\\n', *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == (2 if words.endswith(("Karrass", "nosuch")) else 0), done.stderr
    assert not never & set(done.stderr.splitlines()[-1].split())


def test_no_machine_specific_paths() -> None:
    pattern = re.compile(r"(?<![\w./:}-])(?:/(?:root|home|work|Users|mnt)/\w|[A-Z]:\\{1,2}Users\b)")
    found = []
    for path in tracked_files():
        if path.stat().st_size > 2**20:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{where(path, number)} {match[0]}...")
    assert not found, "paths of one machine:\n" + "\n".join(found)
