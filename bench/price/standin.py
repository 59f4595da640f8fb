"""What a plan needs, or a stand-in of the same size where it is missing: for counts and times."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from bench import checkpoints
from bench.checkpoints import Card, Checkpoint, find_family, for_sampling
from bench.checkpoints.codecs import Latents, Pixels, autoencoder
from bench.features.images import in_batches
from bench.judge import Judge, extractor_of, metrics_of
from bench.plan import Bench
from bench.store import digest
from bench.types import Experiment, Extractor, Model
from bench.zoo.presets import find_preset


@dataclass(frozen=True)
class StandIn(Extractor):
    """torchvision's Inception with random weights, which takes as long as the one of FID.

    stands_for: name of the extractor. layers: of that extractor.
    """

    stands_for: str
    device: str = field(default="cpu", compare=False)
    layers = ("features", "spatial", "logits_unbiased", "logits", "second")

    @property
    def name(self) -> str:
        return self.stands_for

    @property
    def digest(self) -> str:
        return ""

    def on(self, device: str) -> Self:
        return replace(self, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        network, size = _inception(self.device), (299, 299)

        def features(x: Tensor) -> Tensor:
            x = nn.functional.interpolate(x.float().expand(-1, 3, -1, -1), size, mode="bilinear")
            return network(x / 128 - 1)

        batch = 8 if self.device == "cpu" else 512
        with torch.inference_mode():
            return torch.cat(list(in_batches(features, images, batch, torch.device(self.device))))

    def of_layers(self, images: Tensor, wanted: Any) -> dict[str, Tensor]:
        return dict.fromkeys(wanted, self(images))


@lru_cache(maxsize=1)
def _inception(device: str) -> nn.Module:
    from torchvision.models import inception_v3

    net = inception_v3(weights=None, init_weights=False, aux_logits=False, transform_input=False)
    net.fc = nn.Identity()
    return net.eval().requires_grad_(False).to(device)


def of_card(card: Card, device: str, dtype: str) -> Checkpoint:
    """A model of a card with random weights. A latent model without a codec decodes nothing."""
    family, kind = find_family(card.family), getattr(torch, dtype)
    shape = family.shape(card)
    net = for_sampling(family.cast(_filled(family.network(card)), kind), device)
    codec: Latents | Pixels = Pixels(shape, card.quantiser)
    if card.codec:
        decoder = for_sampling(_filled(autoencoder(card.codec)).to(kind), device)
        codec = Latents(card.codec.image, card.codec, decoder, kind, card.quantiser)
    return Checkpoint(
        card.name, digest(card.model_dump(mode="json")), card.process.build(), shape, device, card,
        net, kind, codec,
    )  # fmt: skip


def _filled(net: nn.Module) -> nn.Module:
    """A network, perhaps on the meta device, with small random weights on the CPU."""
    net = net.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for one in net.buffers():
        one.zero_()
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0, 0.02, generator=generator)
    return net


def open_or_stand_in(
    experiment: Experiment, folder: Path, models: checkpoints.Models, device: str
) -> tuple[Bench, list[str]]:
    """What a run shares, and a line for each part that is missing. Nothing is written.

    On a CPU the networks are float32: it takes minutes for one evaluation in float16.

    Raises:
        ValueError: a missing model that is no preset.
    """
    scoring, missing = experiment.scoring, list[str]()
    dtype = "float32" if device == "cpu" else scoring.dtype
    try:
        judge = Judge.open(
            scoring.reference, scoring.features, scoring.metrics, device, bank=scoring.bank
        )
    except ValueError as error:
        missing.append(str(error))
        try:
            extractor = extractor_of(scoring.features, device)
        except ValueError:
            extractor = StandIn(scoring.features.partition("(")[0], device)
        judge = Judge(extractor, metrics_of(scoring.metrics, extractor), scoring.bank)
    opened: dict[str, Model] = {}
    for name in dict.fromkeys(experiment.on(line).model for line in experiment.lines):
        try:
            models.folder(name)
        except ValueError as error:
            try:
                family, chosen = find_preset(Path(name).name)
            except ValueError:
                raise error from None
            missing.append(f"no model {name}: {chosen.commands(family, name, name)}")
            opened[name] = of_card(chosen.draft(name), device, dtype)
        else:
            opened[name] = checkpoints.load(name, device, dtype, models)
    return Bench(experiment, opened, judge, folder, device), missing
