"""Folders and hub ids of diffusers, opened as they lie: a pipeline's configs make the card.

A pipeline is a network, `unet/` (UNet2DModel) or `transformer/` (DiTTransformer2DModel), a
`scheduler/`, and for latents `vqvae/` (VQModel) or `vae/` (AutoencoderKL): DDPMPipeline,
DDIMPipeline, LDMPipeline, DiTPipeline. A network alone has its config.json and
scheduler_config.json in the folder itself. Of the scheduler come the process, the prediction and
whether E[x0|x] is clipped; how it steps is the bench's own business, and so are timestep_spacing,
steps_offset, set_alpha_to_one and variance_type. DDPM's and DDIM's schedulers step from a clipped
E[x0|x] with the noise of the unclipped one; the bench re-derives it, as their
use_clipped_model_output does. The table of betas is float64 here, float32 there.

DiTPipeline guides all channels of the latent, as the bench does; DiT's own sampler only the first
three. No published pipeline was at hand: the tests' are of random weights, saved by diffusers.
"""

import inspect
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from bench.checkpoints import card as cards
from bench.checkpoints.add import check_free, read_weights
from bench.checkpoints.card import Card, CodecCard, Data, VPCard, complaint
from bench.checkpoints.codecs import autoencoder
from bench.checkpoints.families import open_network
from bench.checkpoints.weights import WEIGHTS as MODEL_WEIGHTS
from bench.checkpoints.weights import read_strict
from bench.store import file_digest, read_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED = "diffusion_pytorch_model.bin"
_CONFIGS = ("model_index.json", "config.json", "scheduler_config.json")
_PARTS = {"unet", "transformer", "scheduler", "vae", "vqvae"}
_PICKLES = (PICKLED, f"*/{PICKLED}")
_NETWORKS = {
    "UNet2DModel": "unet2d",
    "DiTTransformer2DModel": "dit2d",
    "Transformer2DModel": "dit2d",  # DiT's name before it had a class of its own
}
_CLIPPING = ("DDPMScheduler", "DDIMScheduler")  # clip_sample is true where they do not say it
_SCHEDULERS = (
    *_CLIPPING, "PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler",
)  # fmt: skip
_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
# "learned" is left out: the variance itself, not between bounds as `VarianceDenoiser` has it
_VARIANCES = (
    "fixed_small", "fixed_large", "fixed_small_log", "fixed_large_log", "learned_range", None,
)  # fmt: skip
_NO_DATA = Data(name="unknown", digest="", licence="unknown")


def is_pipeline(home: Path) -> bool:
    """Whether a folder holds a pipeline of diffusers, or one of its networks."""
    return any((home / name).is_file() for name in _CONFIGS[:2])


def is_hub_id(name: str | Path) -> bool:
    """Whether a name may be owner/model of the hub: not of a folder that is here."""
    owner, _, rest = str(name).partition("/")
    plain = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)) is not None
    return plain and bool(rest) and not Path(owner).exists()


def fetched(name: str, *more: str) -> Path:
    """The folder of a hub id in huggingface_hub's own cache: configs first, which may refuse it,
    then the weights that they ask for, and files of the names `more`.

    ValueError: no such id, or no network and not in the cache.
    """
    home = _snapshot(name, [*_CONFIGS, *(f"*/{config}" for config in _CONFIGS[1:])])
    card = drafted(home)
    return _snapshot(name, [*parts(card), *more])


def _snapshot(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"no model {name!r} here, and the hub does not give it ({why.rstrip('.:')}); check the "
            "name and the network, or fetch the folder elsewhere and give its path"
        ) from error


def read_card(home: Path) -> Card:
    """The card of a model folder, or of a pipeline's as `drafted`, with digests of its weights.

    ValueError: neither, a pipeline or an option that is not supported, weights that are missing or
    are only there as a pickle.
    """
    if (home / "card.json").is_file() or not is_pipeline(home):
        return cards.read_card(home)
    card = drafted(home)
    said: dict[str, Any] = {"weights_sha256": _sha256(home, card.file)}
    if card.codec:
        sha256 = _sha256(home, card.codec.file)
        said["codec"] = card.codec.model_copy(update={"weights_sha256": sha256})
    return card.model_copy(update=said)


def _sha256(home: Path, file: str) -> str:
    if (home / file).is_file():
        return file_digest(home / file)
    source = _name(home) if _cached(home) else home
    raise ValueError(
        f"{source} has no {file}, whole and of no variant; if it has a .bin, make a model of that, "
        f"without running its code: crs-bench add {source} --family diffusers --name NAME"
    )


def parts(card: Card) -> list[str]:
    """The files of weights that a card names, from its folder."""
    return [card.file, *([card.codec.file] if card.codec else [])]


def drafted(home: Path) -> Card:
    """The card of a pipeline's folder, from its configs alone: digests are still empty.

    ValueError: a part or an option of one that is not supported.
    """
    kind = _pipeline(home)
    part = next((p for p in ("unet", "transformer") if (home / p / "config.json").is_file()), ".")
    config = _config(home / part / "config.json")
    where = home / ("scheduler" if (home / "scheduler").is_dir() else ".") / "scheduler_config.json"
    scheduler = _config(where)
    network = _network(home / part, config)
    codec = _codec(home, network["network"])
    return Card.model_validate({
        "name": _name(home), "file": (Path(part) / WEIGHTS).as_posix(), "codec": codec,
        "process": _process(where, scheduler), "prediction": _prediction(where, scheduler),
        "clip": _clip(where, scheduler, codec is not None), "data": _NO_DATA,
        "licence": "unknown", "weights_sha256": "",
        "training": {"pipeline": kind, "diffusers": config.get("_diffusers_version")},
    } | network)  # fmt: skip


def _name(home: Path) -> str:
    """The folder's, or in the hub's cache the model's: models--owner--model/snapshots/<commit>."""
    if _cached(home):
        return home.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return home.absolute().name


def _cached(home: Path) -> bool:
    return home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--")


def _pipeline(home: Path) -> str | None:
    """The pipeline's name, None of a network alone; ValueError if it has parts that the bench does
    not know: one of text, say."""
    if not (home / "model_index.json").is_file():
        return None
    index = _config(home / "model_index.json")
    present = {key for key, value in index.items() if isinstance(value, list) and value[-1]}
    if other := sorted(present - _PARTS):
        raise ValueError(
            f"{home} is a {index.get('_class_name')} with {', '.join(other)}; supported are "
            f"pipelines of {', '.join(sorted(_PARTS))} alone"
        )
    return index["_class_name"]


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; a pipeline of diffusers has one")
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise ValueError(f"{path} is no config of diffusers: it names no _class_name")
    return config


def _arguments(kind: type, config: dict[str, Any]) -> dict[str, Any]:
    """What the class takes of a config. Options of other versions are dropped where they are off,
    as those of the many uses of Transformer2DModel; others are left for the class to refuse."""
    known = inspect.signature(kind).parameters
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and (key in known or value not in (None, False, "default"))
    }


def _network(part: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a card that the network alone decides."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
    from diffusers.models.unets.unet_2d import UNet2DModel

    family = _NETWORKS.get(config["_class_name"])
    if family is None:
        raise ValueError(f"{part} is a {config['_class_name']}; supported: {', '.join(_NETWORKS)}")
    if family == "unet2d":
        network = {"in_channels": 3} | _arguments(UNet2DModel, config)
        _refuse(part, network, class_embed_type=(None,), time_embedding_type=("positional",))
        classes, inputs = network.get("num_class_embeds") or 0, network["in_channels"]
        outputs = network.get("out_channels", 3)
    else:
        network = {"in_channels": 4, "sample_size": 32} | _arguments(DiTTransformer2DModel, config)
        _refuse(part, network, norm_type=("ada_norm_zero",))
        classes, inputs = network.get("num_embeds_ada_norm", 1000), network["in_channels"]
        outputs = network.get("out_channels") or inputs
    if network.get("sample_size") is None:
        raise ValueError(f"{part}/config.json must say sample_size")
    return {
        "family": family, "network": network, "learned_variance": outputs == 2 * inputs,
        "classes": classes, "null_class": family == "dit2d",
    }  # fmt: skip


def _refuse(where: Path, config: dict[str, Any], **supported: tuple[object, ...]) -> None:
    """ValueError at the first option that has another value than those supported, the default
    first."""
    for key, values in supported.items():
        if config.get(key, values[0]) not in values:
            raise ValueError(f"{where}: {key} {config[key]!r} is not supported, only "
                             f"{' or '.join(repr(value) for value in values)}")  # fmt: skip


def _process(where: Path, config: dict[str, Any]) -> VPCard:
    """The betas of a scheduler that has them, by diffusers' defaults where it does not say."""
    if config["_class_name"] not in _SCHEDULERS:
        raise ValueError(f"{where}: {config['_class_name']} is not supported; supported: "
                         f"{', '.join(_SCHEDULERS)}")  # fmt: skip
    _refuse(
        where, config, beta_schedule=tuple(_BETAS), trained_betas=(None,),
        thresholding=(False, None), rescale_betas_zero_snr=(False, None),
        use_flow_sigmas=(False, None), variance_type=_VARIANCES,
    )  # fmt: skip
    betas = _BETAS[config.get("beta_schedule", "linear")]
    ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    try:
        card = VPCard.model_validate({
            "kind": "vp", "betas": betas, "timesteps": config.get("num_train_timesteps", 1000),
            "beta_range": None if betas == "cosine" else ends,
        })  # fmt: skip
        card.build()
    except ValueError as error:
        raise ValueError(f"{where}: {complaint(error)}") from error
    return card


def _prediction(where: Path, config: dict[str, Any]) -> str:
    _refuse(where, config, prediction_type=tuple(_PREDICTIONS), predict_epsilon=(True, None))
    return _PREDICTIONS[config.get("prediction_type", "epsilon")]


def _clip(where: Path, config: dict[str, Any], latent: bool) -> bool:
    """Whether E[x0|x] is kept within -1 .. 1; refused of latents, whose range is not known."""
    clip = bool(config.get("clip_sample", config["_class_name"] in _CLIPPING))
    if clip and latent:
        raise ValueError(f"{where}: clip_sample of latents is not supported; set it to false")
    if clip:
        _refuse(where, config, clip_sample_range=(1.0,))
    return clip


def _codec(home: Path, network: dict[str, Any]) -> CodecCard | None:
    """The autoencoder in `vae/` or `vqvae/`, of images as large as the network's state says.

    A VQModel's states are its latents where its config says no scaling_factor, as those of
    published latent diffusion models: diffusers' default, an AutoencoderKL's 0.18215, gives such
    models wrong images (huggingface/diffusers issue 6725).
    """
    part = next((p for p in ("vae", "vqvae") if (home / p / "config.json").is_file()), None)
    if part is None:
        return None
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.vq_model import VQModel

    kinds: dict[str, type] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    config = _config(home / part / "config.json")
    kind = config["_class_name"]
    if kind not in kinds:
        raise ValueError(f"{home / part} is a {kind}; supported: {', '.join(kinds)}")
    _refuse(home / part, config, latents_mean=(None,), latents_std=(None,))
    said = _arguments(kinds[kind], config)
    vq = kind == "VQModel"
    channels = (said.get("vq_embed_dim") if vq else None) or said.get(
        "latent_channels", 3 + (not vq)
    )
    if channels != network["in_channels"]:
        raise ValueError(f"{home}: the latents of {part} have {channels} channels, the network "
                         f"takes {network['in_channels']}")  # fmt: skip
    size = network["sample_size"]
    h, w = (size, size) if isinstance(size, int) else size
    factor = 2 ** (len(said.get("block_out_channels", (64,))) - 1)
    return CodecCard(
        kind=kind, network=said, file=f"{part}/{WEIGHTS}", weights_sha256="",
        image=(said.get("out_channels", 3), h * factor, w * factor), state=(channels, h, w),
        scale=said.get("scaling_factor") or (1.0 if vq else 0.18215),
        shift=said.get("shift_factor") or 0.0,
    )  # fmt: skip


def add_folder(source: str | Path, name: str, models: Path) -> Path:
    """Make `models/name` of a pipeline's folder or hub id: its card, and its weights byte for byte,
    so that it has the identity of the folder; of pickled ones their tensors, read without running
    code. Every key and shape is checked.

    ValueError: the folder is there already, one that is no pipeline or is not supported, weights
    that are missing or not those of its configs.
    """
    home = models / name
    check_free(name, home)
    origin = _origin(source)
    card = drafted(origin)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=home.parent) as scratch:
        new = Path(scratch) / name
        new.mkdir()
        said: dict[str, Any] = {"name": name, "file": MODEL_WEIGHTS}
        said["weights_sha256"] = _taken(origin, card.file, new / MODEL_WEIGHTS)
        said["training"] = {"source": card.name} | card.training
        if card.codec:
            sha256 = _taken(origin, card.codec.file, new / "codec.safetensors")
            codec = {"file": "codec.safetensors", "weights_sha256": sha256}
            said["codec"] = card.codec.model_copy(update=codec)
        card = card.model_copy(update=said)
        open_network(new, card)
        if card.codec:
            want = autoencoder(card.codec).state_dict()
            read_strict(new / card.codec.file, name, card.codec.weights_sha256, want)
        cards.write_card(new, card)
        new.rename(home)
    return home


def _origin(source: str | Path) -> Path:
    """The folder of a pipeline, fetched if it is a hub id's: weights pickled only if need be."""
    if is_pipeline(Path(source)):
        return Path(source)
    if not is_hub_id(source):
        raise ValueError(f"{source} is no folder of diffusers: it has no model_index.json, nor a "
                         "config.json")  # fmt: skip
    home = fetched(str(source))
    if all((home / file).is_file() for file in parts(drafted(home))):
        return home
    return fetched(str(source), *_PICKLES)


def _taken(origin: Path, file: str, to: Path) -> str:
    """Copy weights, or rewrite pickled ones as safetensors; their SHA-256."""
    pickled = (origin / file).with_name(PICKLED)
    if not (origin / file).is_file() and pickled.is_file():
        save_file({key: x.contiguous() for key, x in read_weights(pickled).items()}, to)
        to.chmod(0o644)
        return file_digest(to)
    sha256 = _sha256(origin, file)
    shutil.copyfile(origin / file, to)
    return sha256
