"""A process without a network: what can be measured of it before anything is trained."""

from dataclasses import asdict, dataclass

from bench.checkpoints.card import VECard, VPCard
from bench.checkpoints.codecs import Codec, Latents, Pixels
from bench.checkpoints.family import Shape
from bench.lazy import Tensor
from bench.process import VE, Process
from bench.store import digest
from bench.types import Denoiser, Model


def process_card(process: Process) -> VPCard | VECard:
    """A process as a card has it; the ends of its range are written out."""
    fields = asdict(process)
    return VECard(kind="ve", **fields) if isinstance(process, VE) else VPCard(kind="vp", **fields)


@dataclass(frozen=True)
class Forward(Model):
    """A model that has a process and a codec, and no denoiser; see `forward`."""

    name: str
    digest: str
    process: Process
    shape: Shape
    device: str
    codec: Codec

    @property
    def has_network(self) -> bool:
        """No."""
        return False

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        """There is none. ValueError: always."""
        raise ValueError(f"{self.name} has no network, so that it predicts nothing; name a model")

    def encode(self, images: Tensor) -> Tensor:
        """uint8 images [n, *image] -> float32 state on the device. ValueError: another shape."""
        if tuple(images.shape[1:]) != self.codec.image:
            raise ValueError(f"{self.name} takes images {list(self.codec.image)}, got "
                             f"{list(images.shape[1:])}; resize them with --size")  # fmt: skip
        return self.codec.encode(images.to(self.device))

    def decode(self, x: Tensor) -> Tensor:
        """State -> uint8 images [n, *image]."""
        return self.codec.decode(x)


def forward(process: Process, data: Latents | Shape, device: str = "cpu") -> Forward:
    """The forward process alone, of pixels or of latents.

    Arguments:
        data: a codec; or the shape c, h, w of the images, whose pixels are the state.
    """
    card = process_card(process)
    what = {"process": card.model_dump(exclude_none=True)}
    codec: Codec = data if isinstance(data, Latents) else Pixels(data)
    shape = data.card.state if isinstance(data, Latents) else data
    if isinstance(data, Latents):
        what["codec"] = data.card.model_dump(exclude={"file", "training"})
    kind = card.betas if isinstance(card, VPCard) else card.kind
    name = f"process {kind} {process.sigma_min:.4g}..{process.sigma_max:.4g}"
    return Forward(name, digest(what), process, shape, device, codec)
