"""Folders and hub ids of diffusers, opened without a copy: a pipeline's configs make the card.

A pipeline is a network, `unet/` (UNet2DModel) or `transformer/` (DiTTransformer2DModel), a
`scheduler/`, and for latents `vqvae/` (VQModel) or `vae/` (AutoencoderKL): DDPMPipeline,
DDIMPipeline, LDMPipeline, DiTPipeline. A network alone has its config.json and
scheduler_config.json in the folder itself. The scheduler gives the process, the prediction and
whether E[x0|x] is clipped. An option of a scheduler is known with the values that are supported, or
is ignored on purpose because it only decides how diffusers steps (`_STEPPING`), or is refused. The
bench has its own samplers. The schedulers of DDPM and DDIM step from a
clipped E[x0|x] with the noise of the unclipped one. The bench computes the noise from the clipped
one, as their use_clipped_model_output does. Its table of betas is float64; theirs is float32.

DiTPipeline guides all channels of the latent, as the bench does. DiT's own sampler guides the first
three. The tests use pipelines with random weights, saved by diffusers. No published pipeline was
tested.
"""

import inspect
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.checkpoints import card as cards
from bench.checkpoints.card import Card, CodecCard, Data, VECard, VPCard, complaint
from bench.checkpoints.files import content_of, read_json
from bench.checkpoints.weights import one_digest
from bench.store import first_line

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED = "diffusion_pytorch_model.bin"
_CONFIGS = ("model_index.json", "config.json", "scheduler_config.json")
_PARTS = {"unet", "transformer", "scheduler", "vae", "vqvae"}
_NETWORKS = {
    "UNet2DModel": "unet2d",
    "DiTTransformer2DModel": "dit2d",
    "Transformer2DModel": "dit2d",  # DiT's name before it had a class of its own
}
_CLIPPING = ("DDPMScheduler", "DDIMScheduler")  # clip_sample is true by default
_SCHEDULERS = (
    *_CLIPPING, "PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler",
)  # fmt: skip
_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
# "learned" is left out: it is the variance itself; `VarianceDenoiser` needs a place between bounds
_VARIANCES = (
    "fixed_small", "fixed_large", "fixed_small_log", "fixed_large_log", "learned_range", None,
)  # fmt: skip
# option of a scheduler -> the values that are supported, diffusers' default first
_OPTIONS: dict[str, tuple[object, ...]] = {
    "beta_schedule": tuple(_BETAS), "prediction_type": tuple(_PREDICTIONS),
    "predict_epsilon": (True, None), "trained_betas": (None,), "variance_type": _VARIANCES,
    "rescale_betas_zero_snr": (False, None), "timestep_type": ("discrete", None),
    "thresholding": (False, None), "dynamic_thresholding": (False, None),
    "sample_max_value": (1, None), "clip_sample": (False, True, None),
    "clip_sample_range": (1, None), "sigma_min": (None,), "sigma_max": (None,),
    "final_sigmas_type": ("zero", None), "invert_sigmas": (False, None), "shift": (1, None),
    "flow_shift": (1, None), "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None), "time_shift_type": ("exponential", None),
    "tensor_format": ("pt", "np", None), "timestep_values": (None,),
}  # fmt: skip
_NUMBERS = ("num_train_timesteps", "beta_start", "beta_end")  # read by `_process`
# They decide how diffusers steps, and not what the network takes or gives. They are ignored.
_STEPPING = frozenset((
    "algorithm_type", "dynamic_thresholding_ratio", "euler_at_final", "interpolation_type",
    "lambda_min_clipped", "lower_order_final", "set_alpha_to_one", "skip_prk_steps",
    "solver_order", "solver_type", "steps_offset", "timestep_spacing", "use_beta_sigmas",
    "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas",
))  # fmt: skip
_NO_DATA = Data(name="unknown", digest="", licence="unknown")


def is_pipeline(home: Path) -> bool:
    """Whether a folder holds a pipeline of diffusers, or a network of diffusers alone."""
    return any((home / name).is_file() for name in _CONFIGS[:2])


def is_hub_id(name: str | Path) -> bool:
    """Whether a name has the form owner/model of the hub, and is not a path to a folder here."""
    owner, _, rest = str(name).partition("/")
    plain = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)) is not None
    return plain and bool(rest) and not Path(owner).exists()


def fetched(name: str, *more: str) -> Path:
    """Fetch a hub id to huggingface_hub's own cache, and give its folder there.

    The configs come first, because they may be refused. Then come the weights that they name.
    more: patterns of other files to fetch.

    ValueError: there is no such id, or it is not in the cache and there is no network.
    """
    home = _snapshot(name, [*_CONFIGS, *(f"*/{config}" for config in _CONFIGS[1:])])
    card = drafted(home)
    stems = [str(Path(file).with_suffix("")) for file in parts(card)]
    sharded = [f"{stem}{end}" for stem in stems
               for end in (".safetensors.index.json", "-*-of-*.safetensors")]  # fmt: skip
    return _snapshot(name, [*parts(card), *sharded, *more])


def _snapshot(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        why = first_line(error)
        raise ValueError(
            f"no model {name!r} here, and the hub does not give it ({why.rstrip('.:')}); check the "
            "name and the network, or copy the folder from another machine and give its path"
        ) from error


def read_card(home: Path) -> Card:
    """Read the card of a model folder, or make the card of a pipeline's folder.

    ValueError: the folder is neither, the pipeline or one of its options is not supported, or its
    weights are missing or only there as a pickle.
    """
    if (home / "card.json").is_file() or not is_pipeline(home):
        return cards.read_card(home)
    card = drafted(home)
    digests: dict[str, Any] = {"weights_sha256": weights_sha256(home, card.file)}
    if card.codec:
        sha256 = weights_sha256(home, card.codec.file)
        digests["codec"] = card.codec.model_copy(update={"weights_sha256": sha256})
    return card.model_copy(update=digests)


def weights_sha256(home: Path, file: str) -> str:
    """The SHA-256 of a file of a pipeline. ValueError: it is missing, or only there as a pickle."""
    if (home / file).is_file():
        content_of(home / file)
        return one_digest(home / file)
    source = _name(home) if _cached(home) else home
    raise ValueError(
        f"{source} has no {file} as one file without a variant; if it has a .bin, make a model of "
        f"that, which runs no code: crs-bench add {source} --family diffusers --name NAME"
    )


def parts(card: Card) -> list[str]:
    """The files of weights that a card names, as paths from its folder."""
    return [card.file, *([card.codec.file] if card.codec else [])]


def drafted(home: Path) -> Card:
    """Make the card of a pipeline's folder from its configs alone. Digests are still empty.

    ValueError: a part of the pipeline or an option is not supported.
    """
    kind = _pipeline(home)
    part = next((p for p in ("unet", "transformer") if (home / p / "config.json").is_file()), ".")
    config = _config(home / part / "config.json")
    where = home / ("scheduler" if (home / "scheduler").is_dir() else ".") / "scheduler_config.json"
    scheduler = _config(where)
    process = _process(where, scheduler)
    _check_class(home, scheduler["_class_name"])
    network = _network(home / part, config)
    codec = _codec(home, network["network"])
    return Card.model_validate({
        "name": _name(home), "file": _weights(home, part), "codec": codec,
        "process": process, "prediction": _prediction(scheduler),
        "clip": _clip(where, scheduler, codec is not None), "data": _NO_DATA,
        "licence": "unknown", "weights_sha256": "",
        "training": {"pipeline": kind, "diffusers": config.get("_diffusers_version")},
    } | network)  # fmt: skip


def bare(home: Path, process: VPCard | VECard, prediction: str, clip: bool) -> Card:
    """Make the card of a folder that holds a network of diffusers and no scheduler.

    Arguments:
        home: a folder with config.json and the weights, as `save_pretrained` writes.
        process, prediction, clip: what a scheduler would say.
    Raises:
        ValueError: no such folder, or the network is not supported.
    """
    network = _network(home, _config(home / "config.json"))
    file = _weights(home, ".")
    try:
        return Card.model_validate({
            "name": _name(home), "file": file, "process": process, "prediction": prediction,
            "clip": clip, "data": _NO_DATA, "licence": "unknown", "training": {},
            "weights_sha256": weights_sha256(home, file),
        } | network)  # fmt: skip
    except ValidationError as error:
        raise ValueError(f"{home}: {complaint(error)}") from error


def _weights(home: Path, part: str) -> str:
    """The file of a part's weights, or the index of its shards, as a path from the folder."""
    index = Path(part) / f"{WEIGHTS}.index.json"
    whole = Path(part) / WEIGHTS
    sharded = (home / index).is_file() and not (home / whole).is_file()
    return (index if sharded else whole).as_posix()


def _check_class(home: Path, have: str) -> None:
    """Raise ValueError if model_index.json names another scheduler: diffusers would take that."""
    path = home / "model_index.json"
    entry = _config(path).get("scheduler") if path.is_file() else None
    if isinstance(entry, list) and entry and entry[-1] not in (None, have):
        raise ValueError(f"{path} names the scheduler {entry[-1]}, but its config is of a {have}; "
                         "make them agree, as the pipeline was published")  # fmt: skip


def _name(home: Path) -> str:
    """The folder's name, or the hub id of models--owner--model/snapshots/<commit>."""
    if _cached(home):
        return home.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return home.absolute().name


def _cached(home: Path) -> bool:
    return home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--")


def _pipeline(home: Path) -> str | None:
    """The pipeline's class name. None: the folder holds a network alone. ValueError: the pipeline
    has other parts, such as a text encoder."""
    if not (home / "model_index.json").is_file():
        return None
    index = _config(home / "model_index.json")
    present = {key for key, value in index.items() if isinstance(value, list) and value[-1]}
    if other := sorted(present - _PARTS):
        raise ValueError(
            f"{home} is a {index.get('_class_name')} with {', '.join(other)}; a supported pipeline "
            f"has no other parts than {', '.join(sorted(_PARTS))}"
        )
    return index["_class_name"]


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy it from where the pipeline comes from")
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise ValueError(f"{path} is no config of diffusers: it names no _class_name")
    return config


def _arguments(where: Path, kind: type, config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a class that a config has. Options that the class does not know are dropped
    if they are off, as Transformer2DModel has many. ValueError: one of those is on."""
    known = inspect.signature(kind).parameters
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    for key, value in given.items():
        if key not in known and value not in (None, False, "default"):
            raise ValueError(
                f"{where}: {kind.__name__} refuses the card's network: it has no option "
                f"{key} ({value!r}), so this option is not supported"
            )
    return {key: value for key, value in given.items() if key in known}


def _network(part: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a card that depend on the network alone."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
    from diffusers.models.unets.unet_2d import UNet2DModel

    family = _NETWORKS.get(config["_class_name"])
    if family is None:
        raise ValueError(f"{part} is a {config['_class_name']}; supported: {', '.join(_NETWORKS)}")
    if family == "unet2d":
        network = {"in_channels": 3} | _arguments(part, UNet2DModel, config)
        _refuse(part, network, class_embed_type=(None,), time_embedding_type=("positional",))
        classes, inputs = network.get("num_class_embeds") or 0, network["in_channels"]
        outputs = network.get("out_channels", 3)
    else:
        network = {"in_channels": 4, "sample_size": 32}
        network |= _arguments(part, DiTTransformer2DModel, config)
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
    """Raise ValueError if an option has a value that is not supported. The default comes first."""
    for key, values in supported.items():
        if config.get(key, values[0]) not in values:
            raise ValueError(f"{where}: {key} {config[key]!r} is not supported, only "
                             f"{' or '.join(repr(value) for value in values)}")  # fmt: skip


def _process(where: Path, config: dict[str, Any]) -> VPCard:
    """The process of a scheduler. A value that the config lacks is diffusers' default."""
    if config["_class_name"] not in _SCHEDULERS:
        raise ValueError(f"{where}: {config['_class_name']} is not supported; supported: "
                         f"{', '.join(_SCHEDULERS)}")  # fmt: skip
    _refuse(where, config, **_OPTIONS)
    known = _OPTIONS.keys() | _STEPPING | set(_NUMBERS)
    for key, value in config.items():
        if not key.startswith("_") and key not in known and value is not None:
            raise ValueError(f"{where}: {key} {value!r} is not supported: its effect is not known; "
                             "remove it if it only decides how diffusers steps")  # fmt: skip
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


def _prediction(config: dict[str, Any]) -> str:
    return _PREDICTIONS[config.get("prediction_type", "epsilon")]


def _clip(where: Path, config: dict[str, Any], latent: bool) -> bool:
    """Whether E[x0|x] is clipped to -1..1. Latents have no known range, so they cannot be.

    Only two classes clip. The others keep a clip_sample that they were given, and ignore it.
    """
    clip = config["_class_name"] in _CLIPPING and config.get("clip_sample", True)
    if clip and latent:
        raise ValueError(f"{where}: clip_sample of latents is not supported; set it to false")
    return bool(clip)


def _codec(home: Path, network: dict[str, Any]) -> CodecCard | None:
    """The autoencoder in `vae/` or `vqvae/`. The network's state decides the size of its images.

    A VQModel whose config has no scaling_factor has scale 1, as in published latent-diffusion
    models. diffusers' default is 0.18215, AutoencoderKL's scale, which gives such models wrong
    images (huggingface/diffusers issue 6725).
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
    options = _arguments(home / part, kinds[kind], config)
    vq = kind == "VQModel"
    channels = (options.get("vq_embed_dim") if vq else None) or options.get(
        "latent_channels", 3 + (not vq)
    )
    if channels != network["in_channels"]:
        raise ValueError(f"{home}: the latents of {part} have {channels} channels, the network "
                         f"takes {network['in_channels']}")  # fmt: skip
    size = network["sample_size"]
    h, w = (size, size) if isinstance(size, int) else size
    factor = 2 ** (len(options.get("block_out_channels", (64,))) - 1)
    return CodecCard(
        kind=kind, network=options, file=_weights(home, part), weights_sha256="",
        image=(options.get("out_channels", 3), h * factor, w * factor), state=(channels, h, w),
        scale=options.get("scaling_factor") or (1.0 if vq else 0.18215),
        shift=options.get("shift_factor") or 0.0,
    )  # fmt: skip
