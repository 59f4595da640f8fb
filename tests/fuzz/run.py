"""Search for inputs that break a reader, guided by coverage: needs the extra `fuzz`.

    python tests/fuzz/run.py TARGET --seconds 600

It stops at the first input that breaks a promise, and writes it to a file.
"""

import argparse
import importlib
import os
import re
import resource
import sys
import tempfile
import zipfile
from pathlib import Path

import atheris
import torch

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1])]
with atheris.instrument_imports(include=["bench", "PIL", "safetensors"]):
    from PIL import Image

    from fuzz import mutate, seeds, targets

    Image.init()  # it imports what reads each kind of image
with atheris.instrument_imports():
    importlib.reload(zipfile)
    importlib.reload(torch._weights_only_unpickler)

_GIGABYTE = 2**30
_TOKENS = {
    "image": ["IHDR", "IDAT", "tRNS", "acTL", "RIFF", "VP8L", "VP8X", "GIF89a", "II*\\x00", "JFIF"],
    "array": ["descr", "fortran_order", "shape", "|u1", "<f8", "|O", "arr_0.npy", "mu.npy"],
    "archive": ["PK\\x03\\x04", "PK\\x01\\x02", "PK\\x05\\x06", ".png", "../"],
    "weights": ["dtype", "F32", "BF16", "F8_E4M3", "data_offsets", "shape", "__metadata__"],
    "json": ["NaN", "Infinity", "null", "1e999", "-1", "{}", "[]", "[[", "\\\\n", "true"],
}  # fmt: skip


def limited() -> None:
    """No more than three gigabytes beside what the process has after its imports."""
    size = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
    most = size * 1024 + 3 * _GIGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def prepared(name: str, corpus: Path) -> Path:
    """Write the whole files into the corpus. Returns: the file of tokens."""
    corpus.mkdir(parents=True, exist_ok=True)
    for i, one in enumerate(seeds.SEEDS[name]()):
        (corpus / f"seed-{i}").write_bytes(one)
    words = corpus.parent / f"{name}.dict"
    words.write_text("".join(f'"{one}"\n' for one in _TOKENS.get(name, _TOKENS["json"])))
    return words


def main() -> None:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, help="kept for the next run; default: none is kept")
    parser.add_argument("--finds", type=Path, default=Path.cwd(), help="folder for a find")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["CRS_BENCH_CACHE"] = str(targets.HOMES["cache"])
    with tempfile.TemporaryDirectory() as scratch:
        corpus = asked.corpus or Path(scratch) / asked.target
        words = prepared(asked.target, corpus)
        limited()
        flags = [f"-max_total_time={asked.seconds}", "-rss_limit_mb=4096", "-timeout=15",
                 f"-max_len={targets.MOST}", f"-dict={words}", "-print_final_stats=1",
                 f"-artifact_prefix={asked.finds}/{asked.target}-"]  # fmt: skip
        kind = asked.target

        def mutated(data: bytes, most: int, seed: int) -> bytes:
            return mutate.repaired(kind, atheris.Mutate, data, most, seed)

        atheris.Setup([sys.argv[0], *flags, str(corpus)], targets.TARGETS[kind],
                      custom_mutator=mutated)  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main()
