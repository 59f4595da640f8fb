"""Quick forms of layers of diffusers' networks; those of ADM and LDM are tested with them."""

import pytest
import torch
from torch import nn

from bench.benchmarks.untrained import card_of
from bench.checkpoints import network
from bench.checkpoints.quick import by_channels
from bench.checkpoints.unet2d import quickened


def made(**other: object) -> nn.Module:
    torch.manual_seed(0)
    return network(card_of("tiny").network | other).double().eval().requires_grad_(False)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 3, 8, 8, generator=generator).double(), torch.linspace(3, 990, 5).double()


def kinds(net: nn.Module) -> set[str]:
    return {type(one).__name__ for one in net.modules()}


@pytest.mark.parametrize(
    "other",
    [{}, {"center_input_sample": True}, {"resnet_time_scale_shift": "scale_shift"}],
    ids=str,
)
def test_a_quickened_network_is_the_same_network(other: dict) -> None:
    net, given = made(**other), inputs()
    want = net(*given).sample
    fast = quickened(net)
    assert kinds(fast) >= {"ChannelNorm", "_Transposed", "_Filled"}
    assert kinds(fast).isdisjoint({"GroupNorm", "Upsample2D"})
    torch.testing.assert_close(fast(*given).sample, want, rtol=0, atol=1e-5)  # norms are float32
    assert torch.equal(net(*given).sample, want)  # the plain one stays
    assert kinds(net) >= {"GroupNorm", "Upsample2D"}


def test_other_ways_to_double_the_size_stay() -> None:
    net, given = made(upsample_type="resnet", downsample_type="resnet"), inputs()
    fast = quickened(net)
    assert "_Transposed" not in kinds(fast) and "Upsample2D" in kinds(fast)
    want = net(*given).sample
    torch.testing.assert_close(fast(*given).sample, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("places", [(6, 4), (24,)])
def test_a_norm_by_channels_is_the_norm(places: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm, x = nn.GroupNorm(3, 12, eps=1e-3), 2 + 3 * torch.randn(4, 12, *places)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    form = by_channels(norm)
    torch.testing.assert_close(form(x), norm(x), rtol=0, atol=1e-5)
    assert form.weight is norm.weight


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_quickened_networks_are_as_near_to_float32(device: str, dtype: torch.dtype) -> None:
    net = made().float().to(device)
    x, timestep = (one.float().to(device) for one in inputs())
    want = net(x, timestep).sample
    half = made().to(device, dtype)
    far = [(one(x.to(dtype), timestep).sample - want).norm() / want.norm()
           for one in (half, quickened(half))]  # fmt: skip
    assert 0 < far[1] < 1.1 * far[0]
