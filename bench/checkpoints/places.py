"""Where models lie: --models, ./models, the user's data folder, then the shipped models."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from bench.checkpoints.pipelines import fetched, is_hub_id, is_pipeline
from bench.names import nearest

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped() -> Path:
    """The models that come with the project: in the package, or beside it in a checkout."""
    inside = _PACKAGE / "shipped" / "models"
    return inside if inside.is_dir() else _PACKAGE.parent / "models"


def data_folder() -> Path:
    """The user's data folder: CRS_BENCH_DATA, or the usual one of the system."""
    set_by_user = os.environ.get("CRS_BENCH_DATA")
    return Path(set_by_user) if set_by_user else platformdirs.user_data_path("crs-bench")


def _is_inside(home: Path) -> bool:
    """Whether a folder lies in the package, where nothing is written."""
    return home.resolve().is_relative_to(_PACKAGE)


def is_object(name: str | Path) -> bool:
    """Whether a name has the form module:name, and is no path that exists."""
    return bool(re.fullmatch(r"[^:]+:[A-Za-z_]\w*", str(name))) and not Path(name).exists()


def _folder_name(name: str | Path) -> str:
    """`mylab:model` -> `mylab.model`, the folder of its measurements."""
    return re.sub(r"[^\w.-]", ".", str(name))


@dataclass(frozen=True)
class Models:
    """The folders that hold models, one folder a model. given: searched first; `--models`.

    `models / "name"` is the folder of a model, in the first place that has it.
    """

    given: Path | None = None

    @property
    def places(self) -> list[Path]:
        """All folders that are searched, the first one first."""
        first = [self.given] if self.given else []
        every = [*first, Path("models"), data_folder() / "models", shipped()]
        found: dict[Path, Path] = {}
        for path in every:
            found.setdefault(path.resolve(), path)  # in a checkout ./models is what is shipped
        return list(found.values())

    def names(self) -> list[str]:
        """Names of the models that are there, sorted."""
        return sorted({path.parent.name for place in self.places
                       for path in place.glob("*/card.json")})  # fmt: skip

    def __truediv__(self, name: str | Path) -> Path:
        return self.folder(name)

    def folder(self, name: str | Path) -> Path:
        """Where a model lies.

        Arguments:
            name: the path of a model folder or of a diffusers pipeline, a name in one of the
                places, or a hub id, which is downloaded to the hub's own cache.

        Raises:
            ValueError: none of these. The message has the nearest known name.
        """
        if is_object(name):
            raise ValueError(f"{name} is a model in Python, so it has no folder")
        if here := self.present(name):
            return here
        if is_hub_id(name):
            return fetched(str(name))
        where = self.places[0] if self.given else "./models and among the shipped ones"
        raise ValueError(f"no model {str(name)!r} in {where}{nearest(str(name), self.names())}")

    def present(self, name: str | Path) -> Path | None:
        """The folder of a model that is on this machine, by its path or its name."""
        for path in (Path(name), *(place / name for place in self.places)):
            if (path / "card.json").is_file() or is_pipeline(path):
                return path
        return None

    def homes(self, name: str | Path) -> list[Path]:
        """All folders that may hold measurements of a model, the first one first.

        The model's own folder is the first. That of a model in the package is the last, because
        new measurements of it lie elsewhere (`writable`).
        """
        if is_object(name):
            return [place / _folder_name(name) for place in (self.target, *self.places)]
        home = self.folder(name)
        if _is_inside(home):
            return [place / home.name for place in self.places]
        return [home, *(place / name for place in self.places)]

    def writable(self, name: str | Path) -> Path:
        """The folder for new measurements of a model.

        It is the model's own. Of a model in the package it is the folder of the same name in the
        user's data folder. Of `module:name` it is `module.name` among new models.
        """
        if is_object(name):
            return self.target / _folder_name(name)
        home = self.folder(name)
        return data_folder() / "models" / home.name if _is_inside(home) else home

    @property
    def target(self) -> Path:
        """The folder for new models: `given`, else ./models if there is such a folder, else that of
        the user's data folder."""
        usual = Path("models") if Path("models").is_dir() else data_folder() / "models"
        return self.given or usual


def models_of(models: "Models | Path | None") -> Models:
    """Places to search, of a folder that is to be searched first, if any."""
    return models if isinstance(models, Models) else Models(models)
