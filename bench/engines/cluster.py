"""The engine of a cluster: Ray's actors, on this machine or on many.

Workers share no disk with the run. They get the models, the weights of the extractor and the user's
own modules as bytes with their SHA-256. They give shards as bytes. The run alone writes results.
"""

import hashlib
import importlib.util
import math
import os
import pickle
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import checkpoints
from bench.engines.crew import Crew, Engine
from bench.engines.worker import Hand, Hello, Kit, Order, said
from bench.features import cache_folder
from bench.shards import Packed
from bench.store import digest, file_digest, in_a_line, write_bytes
from bench.types import Extractor, Model

_WEIGHTS = (".json", ".safetensors")


@dataclass(frozen=True)
class Parcel:
    """A kit with the files that it names, for machines that have none of them.

    kit: pickled, since its classes may be in the user's modules, which come with it.
    folders: name of a model -> its folder, from the top of the parcel.
    weights: field of the extractor -> the file that it names, from the top of the parcel.
    files: path from the top -> (SHA-256, what stands for the bytes).
    """

    kit: bytes
    folders: Mapping[str, str]
    weights: Mapping[str, str]
    files: Mapping[str, tuple[str, Any]]

    @classmethod
    def of(cls, kit: Kit, dumps: Callable[[Any], bytes], keep: Callable[[Any], Any]) -> "Parcel":
        """Read the files of a kit. keep: uint8 [n] -> what stands for it in the parcel."""
        found = {f"modules/{name}": path for name, path in own_modules().items()}
        folders, weights = {}, {}
        for i, (name, home) in enumerate(kit.models.items()):
            files = list(model_files(home))
            top = Path(os.path.commonpath([home, *(path.parent for path in files)]))
            folders[name] = f"models/{i}/{home.relative_to(top).as_posix()}"
            found |= {f"models/{i}/{path.relative_to(top).as_posix()}": path for path in files}
        for field, path in kit.extractor.files.items():
            weights[field] = f"weights/{field}/{path.name}"
            found[weights[field]] = path
        files_of = {name: (file_digest(path), keep(np.fromfile(path, np.uint8)))
                    for name, path in found.items()}  # fmt: skip
        return cls(dumps(kit), folders, weights, files_of)

    def unpack(self, read: Callable[[Any], Any]) -> Kit:
        """Write the files that this machine lacks into the cache; gives the kit of them.

        Arguments:
            read: what stands for a file -> uint8 [n].

        Raises:
            ValueError: a file that is not what it should be.
        """
        names = {name: sha256 for name, (sha256, _) in self.files.items()}
        top = cache_folder() / "parcels" / digest(names)
        for name, (sha256, data) in self.files.items():
            path = top / name
            if not path.is_file() or file_digest(path) != sha256:
                content = np.asarray(read(data)).tobytes()
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise ValueError(f"{name} arrived damaged: its SHA-256 differs")
                write_bytes(path, content)
        if (modules := str(top / "modules")) not in sys.path:
            sys.path.insert(0, modules)
        kit: Kit = pickle.loads(self.kit)
        weights = {field: str(top / name) for field, name in self.weights.items()}
        extractor = kit.extractor.reading(weights) if weights else kit.extractor
        homes = {name: top / home for name, home in self.folders.items()}
        return replace(kit, models=homes, extractor=extractor)


def model_files(home: Path) -> Iterator[Path]:
    """The files of a model folder, and of its codec in another."""
    for path in sorted(home.rglob("*")):
        if path.suffix in _WEIGHTS and path.is_file() and path.parent.name != "measures":
            yield path
    card = checkpoints.read_card(home)
    if card.codec and not (codec := home / card.codec.file).resolve().is_relative_to(
        home.resolve()
    ):
        yield Path(os.path.normpath(codec))


def own_modules() -> dict[str, Path]:
    """Path from a folder of modules -> file, of all imported modules that are not installed."""
    here = (Path(sysconfig.get_path("stdlib")).resolve(), Path(__file__).resolve().parents[1])
    found = {}
    for name, module in list(sys.modules.items()):
        path = Path(str(vars(module).get("__file__"))).resolve()
        installed = {"site-packages", "dist-packages"} & set(path.parts)
        if path.suffix != ".py" or not path.is_file() or name == "__main__" or installed:
            continue
        if not any(path.is_relative_to(folder) for folder in here):
            place = name.replace(".", "/")
            found[f"{place}/__init__.py" if path.name == "__init__.py" else f"{place}.py"] = path
    return found


@dataclass(frozen=True)
class Ray(Engine):
    """Ray's actors, one for each GPU or core of the cluster; GPUs and cores that come later too.

    address: of a running cluster, "auto" or HOST:PORT; "": a cluster of this machine alone, which
        starts and ends with the run and listens to this machine only.
    workers: 0: one for each GPU or core. More workers than GPUs share them.
    device: "cuda", "cpu", or "auto": GPUs if the cluster has some.
    """

    address: str = ""
    workers: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ValueError("--engine ray needs Ray: pip install 'crs-bench[cluster]'; or use "
                             "--engine processes, which needs only this machine")  # fmt: skip
        if self.address.startswith("ray://"):
            raise ValueError(f"--address {self.address}: Ray's client is not supported; start the "
                             "run on a machine of the cluster, with --address auto")  # fmt: skip

    def crew(self, models: dict[str, Model], extractor: Extractor, kit: Callable[[], Kit]) -> Crew:
        return _Actors(self, kit)


class _RayHand(Hand):
    """A worker that unpacks its kit first."""

    def greet(self, parcel: Parcel, device: str, threads: int) -> Hello:
        import ray

        try:
            kit = parcel.unpack(ray.get)
        except Exception as error:
            return Hello(os.getpid(), said(error))
        return self.hello(kit, device, threads)

    def make_of(self, order: bytes) -> Packed | str:
        return self.make(pickle.loads(order))


class _Actors(Crew):
    def __init__(self, engine: Ray, kit: Callable[[], Kit]):
        super().__init__()
        self.engine, self.kit, self.own = engine, kit, False
        self.looked, self.count = -math.inf, 0

    def open(self) -> None:
        engine = self.engine
        if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
            _connect(engine.address)
            self.own = True
        import ray

        self.ray = ray
        resources = ray.cluster_resources()
        gpus, cuda = resources.get("GPU", 0), engine.device.startswith("cuda")
        self.kind = "GPU" if cuda or (gpus and engine.device != "cpu") else "CPU"
        if cuda and not gpus and not engine.workers:
            raise ValueError("the cluster has no GPU; use --device cpu, or --workers N to wait for "
                             "machines that have some")  # fmt: skip
        self.each = _each(resources.get(self.kind, 1), engine.workers)
        self.parcel = ray.put(Parcel.of(self.kit(), ray.cloudpickle.dumps, ray.put))

    def wanted(self) -> int:
        if self.engine.workers:
            return self.engine.workers
        if time.monotonic() - self.looked > 2:
            self.looked = time.monotonic()
            self.count = int(self.ray.cluster_resources().get(self.kind, 0))
        return self.count

    def start(self) -> tuple[Any, "Future[Hello]"]:
        gpu = self.kind == "GPU"
        needs = {"num_gpus": self.each, "num_cpus": 0} if gpu else {"num_cpus": self.each}
        actor: Any = self.ray.remote(_RayHand).options(**needs).remote()
        device, threads = ("cuda:0", 1) if gpu else ("cpu", max(1, int(self.each)))
        return actor, actor.greet.remote(self.parcel, device, threads).future()

    def submit(self, worker: Any, order: Order) -> "Future[Any]":
        return worker.make_of.remote(self.ray.cloudpickle.dumps(order.lean)).future()

    def drop(self, worker: Any) -> None:
        self.ray.kill(worker)

    def close(self) -> None:
        super().close()
        if self.own:
            self.ray.shutdown()


def _each(resources: float, workers: int) -> float:
    """Of a GPU or of the cores, what each worker takes: a part of one, or some whole ones."""
    if not workers or workers == resources:
        return 1
    if workers > resources:
        return 1 / math.ceil(workers / max(resources, 1))
    return 1


def _connect(address: str) -> None:
    """Join a cluster, or start one that only this machine can reach.

    Ray's processes listen to all interfaces of a machine, unless this variable, which is made for
    other systems, makes them use the loopback. Ray reads it when it is imported.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if not address:
        ray.init(address="local", include_dashboard=False, **how)
        if not (ip := ray.util.get_node_ip_address()).startswith("127."):
            ray.shutdown()
            raise RuntimeError(f"Ray was imported before and would listen to {ip}; import bench "
                               "first, or call ray.init yourself")  # fmt: skip
        return
    try:
        ray.init(address=address, **how)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"--address {address}: no cluster answers ({in_a_line(error)}); start one "
                         "with: ray start --head") from error  # fmt: skip
