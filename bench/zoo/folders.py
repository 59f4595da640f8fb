"""Make a model folder of a diffusers folder or hub id: `crs-bench add --family diffusers`."""

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.checkpoints import find_family, open_network, write_card
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
from bench.checkpoints.weights import WEIGHTS, joined, read_strict
from bench.zoo.add import network_of, save_tensors
from bench.zoo.checks import check_free, made_whole


def add_folder(source: str | Path, name: str, models: Path) -> Path:
    """Make the model folder `models/name` of a pipeline. Every key and shape is checked.

    Weights are copied byte for byte, so that the model has the digest of the pipeline. Of pickled
    weights the tensors are copied, and no code is run.

    source: a folder of diffusers, or a hub id.

    Raises:
        ValueError: the folder exists; the source is no pipeline or is not supported; its weights
            are missing or do not fit its configs.
    """
    home = models / name
    check_free(name, home)
    origin = _origin(source)
    card = drafted(origin)
    with made_whole(home) as new:
        fields: dict[str, Any] = {"name": name, "file": WEIGHTS}
        want = find_family(card.family).network(card).state_dict()
        fields["weights_sha256"] = _copied(origin, card.file, new / WEIGHTS, want)
        fields["training"] = {"source": card.name} | card.training
        if card.codec:
            want = autoencoder(card.codec).state_dict()
            sha256 = _copied(origin, card.codec.file, new / "codec.safetensors", want)
            codec = {"file": "codec.safetensors", "weights_sha256": sha256}
            fields["codec"] = card.codec.model_copy(update=codec)
        card = card.model_copy(update=fields)
        open_network(new, card)
        if card.codec:
            read_strict(new / card.codec.file, name, card.codec.weights_sha256, want)
        write_card(new, card)
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


def _copied(origin: Path, file: str, to: Path, want: dict[str, Tensor]) -> str:
    """Copy weights and return their SHA-256. Pickled weights and shards become one safetensors."""
    source = origin / file
    pickled = source.with_name(PICKLED)
    if not source.is_file() and pickled.is_file():
        return save_tensors(to, network_of(pickled, want).attempt.made)
    sha256 = weights_sha256(origin, file)
    if source.name.endswith(".index.json"):
        return save_tensors(to, joined(source))
    shutil.copyfile(source, to)
    return sha256
