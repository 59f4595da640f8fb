"""The published EDM checkpoints: arguments, source, licence and FID of each; weights not shipped.

Addresses and options of training: README of github.com/NVlabs/edm. FID: Karras et al. 2022 (arXiv
2206.00364), Tables 2 (config F) and 3, the least of three sets of 50,000 images, whose samplers'
evaluations the entries name. The files are pickles, which this project never opens: see `CONVERT`.
No SHA-256 of them is published, and their arguments are those of the README's options.
"""

from torch import Tensor

from bench.checkpoints.card import Card, Data, VECard
from bench.checkpoints.edm_flags import EDMFlags
from bench.checkpoints.presets.published import Made, Published

_ADDRESS = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/"

# For the shell, one line, as it ends up in an error; Python 3.8, as NVlabs' environment has. It
# refuses the preconditionings that are not EDM's, and writes beside the weights a preset of the
# pickle's own arguments, for networks that are not published.
CONVERT = (
    "python -c 'import json, pickle, sys; from safetensors.torch import save_file; "
    'to = sys.argv[1].rsplit(".", 1)[0]; net = pickle.load(open(sys.argv[1], "rb"))["ema"].cpu(); '
    'assert type(net).__name__ == "EDMPrecond" and net.sigma_data == 0.5, "other preconditioning"; '
    "save_file({k: v.contiguous() for k, v in net.state_dict().items()}, "
    'to + ".safetensors"); '
    'rest = {"dropout", "label_dropout", "use_fp16", "sigma_min", "sigma_max", "sigma_data"}; '
    'json.dump({"flags": {k: v for k, v in net.init_kwargs.items() if k not in rest}}, '
    'open(to + ".json", "w"))\''
)


class EDMPreset(Published):
    """A network of NVlabs/edm behind its EDM preconditioning: the arguments that decide it."""

    flags: EDMFlags
    dropout: float | None = None  # of its training

    @property
    def given(self) -> str:
        """The converted file."""
        return self.file.replace(".pkl", ".safetensors")

    @property
    def convert(self) -> str:
        """The command for its pickle."""
        return CONVERT

    def made(self, name: str, tensors: dict[str, Tensor]) -> Made:
        """Its keys are this project's. Not clipped, as published: its denoiser is not."""
        card = Card(
            name=name, family="edm", network=self.flags.model_dump(mode="json"),
            process=VECard(kind="ve", sigma_min=0.002, sigma_max=80.0, sigma_data=0.5),
            prediction="edm", clip=False, classes=self.flags.label_dim,
            data=Data(name=self.data, digest="", licence="see the data's own terms"),
            training=self.record() | {"dropout": self.dropout},
            licence=self.licence, weights_sha256="",
        )  # fmt: skip
        return Made(card, tensors)


_DDPMPP = {"model_type": "SongUNet", "augment_dim": 9}
_NCSNPP = _DDPMPP | {
    "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
    "resample_filter": (1, 3, 3, 1),
}  # fmt: skip
_CIFAR = {"img_resolution": 32, "channel_mult": (2, 2, 2)}
_CIFAR_COND = _CIFAR | {"label_dim": 10}
_FACES = {"img_resolution": 64, "channel_mult": (1, 2, 2, 2)}


def _edm(
    file: str, flags: dict[str, object], data: str, dropout: float, fid: float, source: str
) -> EDMPreset:
    return EDMPreset(
        flags=EDMFlags.model_validate(flags), data=data, dropout=dropout, fid=fid,
        licence="CC BY-NC-SA 4.0", address=f"{_ADDRESS}edm-{file}.pkl",
        fid_source=f"arXiv 2206.00364, {source}",
    )  # fmt: skip


def _song(file: str, flags: dict[str, object], dropout: float, fid: float, nfe: int) -> EDMPreset:
    form = _DDPMPP if file.endswith("-vp") else _NCSNPP
    source = f"Table 2, config F, {file[-2:].upper()}, NFE {nfe}"
    return _edm(file, form | flags, file.partition("-")[0], dropout, fid, source)


PRESETS: dict[str, EDMPreset] = {
    "edm-cifar10-cond-vp": _song("cifar10-32x32-cond-vp", _CIFAR_COND, 0.13, 1.79, 35),
    "edm-cifar10-cond-ve": _song("cifar10-32x32-cond-ve", _CIFAR_COND, 0.13, 1.79, 35),
    "edm-cifar10-uncond-vp": _song("cifar10-32x32-uncond-vp", _CIFAR, 0.13, 1.97, 35),
    "edm-cifar10-uncond-ve": _song("cifar10-32x32-uncond-ve", _CIFAR, 0.13, 1.98, 35),
    "edm-ffhq-vp": _song("ffhq-64x64-uncond-vp", _FACES, 0.05, 2.39, 79),
    "edm-ffhq-ve": _song("ffhq-64x64-uncond-ve", _FACES, 0.05, 2.53, 79),
    "edm-afhqv2-vp": _song("afhqv2-64x64-uncond-vp", _FACES, 0.25, 1.96, 79),
    "edm-afhqv2-ve": _song("afhqv2-64x64-uncond-ve", _FACES, 0.25, 2.16, 79),
    "edm-imagenet-64": _edm(
        "imagenet-64x64-cond-adm",
        {"model_type": "DhariwalUNet", "img_resolution": 64, "label_dim": 1000},
        "imagenet-ilsvrc-2012", 0.1, 1.36, "Table 3, retrained, stochastic sampler, NFE 511",
    ),
}  # fmt: skip
