"""Starts `crs-bench ...` as processes that can be killed, without seconds of imports for each.

One process imports everything, and forks for each command. It must not use threads before.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Nursery:
    """The side of the tests."""

    def __init__(self, folder: Path, threads: int = 1):
        """folder: where the commands run, and where what they say goes, to PID.log."""
        path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__], cwd=folder, env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def _ask(self, *what: Any) -> int:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, *arguments: object, **env: str) -> int:
        """Start `crs-bench arguments`; gives its process id."""
        return self._ask("start", [str(one) for one in arguments], env)

    def running(self, pid: int) -> bool:
        """Whether a process that was started is still there."""
        return self._ask("running", pid) == 1

    def wait(self, pid: int) -> int:
        """Wait for the end of a process; gives its exit status, below 0 for a signal."""
        return self._ask("wait", pid)

    def run(self, *arguments: object, **env: str) -> None:
        """Start and wait; fails with what the process said."""
        pid = self.start(*arguments, **env)
        assert self.wait(pid) == 0, (self.folder / f"{pid}.log").read_text()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def _child(arguments: list[str], env: dict[str, str]) -> None:
    from bench import cli

    code = 70
    log = os.open(f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(env)
    sys.argv = ["crs-bench", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Answer each line with one number."""
    import matplotlib.backends.backend_pdf  # noqa: F401
    import pandas  # noqa: F401
    import tiny  # noqa: F401
    from diffusers import UNet2DModel  # noqa: F401

    import bench.run  # noqa: F401
    from bench import cli, experiments, report  # noqa: F401

    ended: dict[int, int] = {}
    for line in sys.stdin:
        what, *rest = json.loads(line)
        answer = 0
        if what == "start":
            answer = os.fork()
            if answer == 0:
                _child(*rest)
        elif rest[0] not in ended:
            pid, status = os.waitpid(rest[0], 0 if what == "wait" else os.WNOHANG)
            if pid:
                ended[pid] = os.waitstatus_to_exitcode(status)
        if what == "wait":
            answer = ended[rest[0]]
        if what == "running":
            answer = int(rest[0] not in ended)
        print(answer, flush=True)


if __name__ == "__main__":
    serve()
