"""Make a model folder of a diffusers folder or hub id: `crs-bench add --family diffusers`."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from bench.checkpoints import open_network, write_card
from bench.checkpoints.codecs import autoencoder
from bench.checkpoints.pipelines import (
    PICKLED,
    drafted,
    fetched,
    is_hub_id,
    is_pipeline,
    parts,
    weights_sha256,
)
from bench.checkpoints.weights import WEIGHTS, read_strict
from bench.store import file_digest
from bench.zoo.add import check_free
from bench.zoo.torch_files import read_weights


def add_folder(source: str | Path, name: str, models: Path) -> Path:
    """Make the model folder `models/name` of a pipeline. Every key and shape is checked.

    Weights are copied byte for byte, so that the model has the digest of the pipeline. Of pickled
    weights the tensors are copied, and no code is run.

    Arguments:
        source: a folder of diffusers, or a hub id.
        name: the name of the folder to make.
        models: the folder that holds one folder a model.
    Returns:
        The model folder.
    Raises:
        ValueError: the folder exists; the source is no pipeline or is not supported; its weights
            are missing or do not fit its configs.
    """
    home = models / name
    check_free(name, home)
    origin = _origin(source)
    card = drafted(origin)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=home.parent) as scratch:
        new = Path(scratch) / name
        new.mkdir()
        fields: dict[str, Any] = {"name": name, "file": WEIGHTS}
        fields["weights_sha256"] = _copied(origin, card.file, new / WEIGHTS)
        fields["training"] = {"source": card.name} | card.training
        if card.codec:
            sha256 = _copied(origin, card.codec.file, new / "codec.safetensors")
            codec = {"file": "codec.safetensors", "weights_sha256": sha256}
            fields["codec"] = card.codec.model_copy(update=codec)
        card = card.model_copy(update=fields)
        open_network(new, card)
        if card.codec:
            want = autoencoder(card.codec).state_dict()
            read_strict(new / card.codec.file, name, card.codec.weights_sha256, want)
        write_card(new, card)
        new.rename(home)
    return home


def _origin(source: str | Path) -> Path:
    """The folder of a pipeline. A hub id is fetched, with pickles if there is nothing else."""
    if is_pipeline(Path(source)):
        return Path(source)
    if not is_hub_id(source):
        raise ValueError(f"{source} is no folder of diffusers: it has no model_index.json, nor a "
                         "config.json")  # fmt: skip
    home = fetched(str(source))
    if all((home / file).is_file() for file in parts(drafted(home))):
        return home
    return fetched(str(source), PICKLED, f"*/{PICKLED}")


def _copied(origin: Path, file: str, to: Path) -> str:
    """Copy weights, or rewrite pickled weights as safetensors, and return their SHA-256."""
    pickled = (origin / file).with_name(PICKLED)
    if not (origin / file).is_file() and pickled.is_file():
        save_file({key: x.contiguous() for key, x in read_weights(pickled).items()}, to)
        to.chmod(0o644)
        return file_digest(to)
    sha256 = weights_sha256(origin, file)
    shutil.copyfile(origin / file, to)
    return sha256
