"""Family dit2d: diffusers' `DiTTransformer2DModel`, whose arguments are the card's network."""

from torch import nn

from bench.checkpoints.card import Card
from bench.checkpoints.family import Family, Shape


class _DiT2D(Family):
    def network(self, card: Card) -> nn.Module:
        from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

        try:
            return DiTTransformer2DModel(**card.network)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"DiTTransformer2DModel refuses the card's network: {error}"
            ) from error

    def shape(self, card: Card) -> Shape:
        channels, size = card.network.get("in_channels", 4), card.network.get("sample_size", 32)
        outputs = channels * (2 if card.learned_variance else 1)
        if (card.network.get("out_channels") or channels) != outputs:
            raise ValueError(f"learned_variance needs a network with {outputs} out_channels")
        return channels, size, size


FAMILY = _DiT2D()
