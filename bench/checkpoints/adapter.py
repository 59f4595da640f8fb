"""The module that a network of the user's becomes."""

from torch import Tensor, nn

from bench.checkpoints.family import Output


class Adapter(nn.Module):
    """A network that gives a tensor, a tuple or an output of diffusers -> `Output`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Output:
        """x: float [n, c, h, w]; timestep: float32 [n]; class_labels: int64 [n], if it has any."""
        given = (x, timestep) if class_labels is None else (x, timestep, class_labels)
        made = self.net(*given)
        if isinstance(made, Tensor):
            return Output(made)
        return Output(made[0] if isinstance(made, tuple) else made.sample)
