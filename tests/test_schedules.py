"""Closed forms are constant-rate schedules of known rates. Every grid fulfils the contract."""

import dataclasses
import json
import math
from dataclasses import dataclass, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import names, schedules
from bench.process import VE, VP
from bench.schedules import (
    AlignYourSteps,
    Beta,
    Between,
    CheapestPath,
    ConstantRate,
    Cosine,
    DMNonUniform,
    Karras,
    KLOptimal,
    Laplace,
    Levels,
    Linear,
    LogNormal,
    LogSNR,
    Native,
    Snapped,
    load,
)
from bench.types import Costs, NoiseProcess, Rate, Schedule

COORDINATES = ["sigma", "alpha", "angle", "logsnr"]
PROCESSES = [VP(), VP("scaled_linear"), VP("cosine", 1000, 0.01, 80.0), VE()]
LAWS = [LogNormal(), LogNormal(0.5, 3.0), Laplace(), Laplace(-1.0, 2.0)]
CLOSED = [Native(), LogSNR(), Karras(), Karras(rho=1), Karras(rho=3.5), Cosine(), Linear(), *LAWS]


@dataclass(frozen=True)
class Mine(Schedule):
    """A user's own schedule defines the call and nothing else."""

    power: float = 2.0

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        t = torch.linspace(1, 0, steps, dtype=torch.float64)
        low, high = process.sigma_min, process.sigma_max
        return torch.cat([low + t**self.power * (high - low), torch.zeros(1, dtype=torch.float64)])


def rate_of(v, process: NoiseProcess, levels: int = 2001) -> Rate:
    sigma = torch.as_tensor(np.geomspace(process.sigma_min, process.sigma_max, levels))
    return Rate("exact", sigma, v(sigma))


def bumpy(seed: int, process: NoiseProcess) -> Rate:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    return rate_of(lambda sigma: (2 * noise).exp() / sigma, process, 40)


def costs_of(process: NoiseProcess) -> Costs:
    """Random costs between 101 levels."""
    sigma = torch.as_tensor(np.geomspace(process.sigma_max, process.sigma_min, 101))
    cost = torch.rand(101, 101, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Costs("random", sigma, cost)


def close(grid: Tensor, want: Tensor, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(grid, want, rtol=rtol, atol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
@pytest.mark.parametrize(
    "schedule", [*CLOSED, Mine(), "bumpy 0.5", "bumpy 1", "bumpy 2", "cheapest"], ids=str
)
def test_grid_contract(schedule: Schedule | str, steps: int, process: NoiseProcess) -> None:
    if schedule == "cheapest":
        schedule = CheapestPath(costs_of(process))
    elif isinstance(schedule, str):
        schedule = ConstantRate(bumpy(3, process), float(schedule.split()[1]))
    grid = schedule(steps, process)
    assert grid.dtype == torch.float64
    assert grid.shape == (steps + 1,)
    assert (grid.diff() < 0).all()
    assert grid[0] == process.sigma_max
    assert grid[-1] == 0
    if steps > 1:
        assert grid[-2] == process.sigma_min


@pytest.mark.parametrize("schedule", CLOSED, ids=repr)
@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(schedule: Schedule, steps: int) -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        schedule(steps, VE())


@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_karras_is_the_constant_rate_of_a_power(
    process: NoiseProcess, rho: float, coordinate: str
) -> None:
    rate = rate_of(lambda sigma: sigma ** (1 / rho - 1), process, 64)
    crs = ConstantRate(rate, xi=1, coordinate=coordinate, floor=1e-12)
    close(crs(20, process), Karras(rho)(20, process))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_logsnr_is_the_constant_rate_of_one_over_sigma(process: NoiseProcess) -> None:
    crs = ConstantRate(rate_of(lambda sigma: 1 / sigma, process, 8))
    close(crs(20, process), LogSNR()(20, process), 1e-9)


def test_karras_with_large_rho_tends_to_logsnr() -> None:
    close(Karras(1e6)(20, VE()), LogSNR()(20, VE()), 1e-4)


@pytest.mark.parametrize("process", PROCESSES[:3], ids=repr)
def test_native_is_the_constant_rate_of_the_models_clock(process: VP) -> None:
    """dt / dsigma from the differences of the table, at the geometric midpoints.

    dt / dlog sigma is piecewise constant. It jumps at the integers. PCHIP smooths the jumps. The
    grids agree within a tenth of one of 1000 timesteps, not to rounding.
    """
    table = torch.from_numpy(process.table)
    middle = (table[1:] * table[:-1]).sqrt()
    v = 1 / table.log().diff() / middle
    level = torch.cat([table[:1], middle, table[-1:]])
    ends = torch.stack([v[0] * middle[0] / table[0], v[-1] * middle[-1] / table[-1]])
    rate = Rate("clock", level, torch.cat([ends[:1], v, ends[1:]]))
    ours = process.timestep(ConstantRate(rate, floor=1e-12)(20, process)[:-1])
    want = process.timestep(Native()(20, process)[:-1])
    assert (ours - want).abs().max() < 0.1


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_cosine_is_equal_angles(process: NoiseProcess) -> None:
    gaps = torch.atan(Cosine()(17, process)[:-1]).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(16), rtol=1e-9, atol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("linear", [Linear(), Linear(0.001, 5.0)], ids=repr)
def test_linear_is_equal_times_of_its_beta(linear: Linear, process: NoiseProcess) -> None:
    """t of a level from -log alpha(t) = integral of beta. The trapezoid rule is exact here."""
    t = np.linspace(0, 3, 300_001)
    beta = linear.beta_min + t * (linear.beta_max - linear.beta_min)
    minus_log_alpha = np.concatenate([[0], np.cumsum((beta[1:] + beta[:-1]) / 2 * np.diff(t))])
    at = np.log1p(linear(17, process)[:-1].numpy() ** 2)
    assert at.max() < minus_log_alpha[-1]
    gaps = np.diff(np.interp(at, minus_log_alpha, t))
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "process"),
    [(Linear(), VP()), (Cosine(), VP("cosine")), (Cosine(), VP("cosine", 1000, 0.01, 80.0))],
    ids=repr,
)
def test_a_process_of_that_name_has_its_clock(schedule: Schedule, process: VP) -> None:
    """Within 5 of 1000 timesteps: the steps have a finite length, and the cosine has an offset."""
    ours, native = (process.timestep(s(50, process)[:-1]) for s in (schedule, Native()))
    assert (ours - native).abs().max() < 5


def log_density(schedule: LogNormal | Laplace, log_sigma):
    """Log density of log sigma, as the paper writes it, up to a constant."""
    if isinstance(schedule, LogNormal):
        return -((log_sigma - schedule.mean) ** 2) / (2 * schedule.std**2)
    return -abs(-2 * log_sigma - schedule.mean) / schedule.scale


@pytest.mark.parametrize("process", [VP(), VE()], ids=repr)
@pytest.mark.parametrize(
    "schedule",
    [
        *LAWS,
        LogNormal(-3.0, 0.2),
        LogNormal(-15.0, 1.0),  # both ends 9 to 20 deviations above the mean
        LogNormal(14.0, 1.0),  # both ends below the mean
        LogNormal(0.0, 100.0),
        Laplace(25.0, 0.3),  # both ends in the upper tail of log sigma, up to exp(-116)
        Laplace(-25.0, 0.3),
        Laplace(3.0, 0.05),
    ],
    ids=repr,
)
def test_quantiles_are_those_of_a_summed_density(
    schedule: LogNormal | Laplace, process: NoiseProcess
) -> None:
    """Share of the law between sigma_max and each level, summed from the heavier end."""
    x = np.linspace(math.log(process.sigma_min), math.log(process.sigma_max), 1_000_001)
    level = log_density(schedule, x)
    density = np.exp(level - level.max())
    below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    levels = schedule(12, process)[:-1].log().numpy()
    share = np.interp(levels, x, below / below[-1])
    np.testing.assert_allclose(share, np.linspace(1, 0, 12), rtol=0, atol=1e-6)


def linear_rate(sigma: Tensor) -> Tensor:
    """dt / dsigma: beta dt = dlog(1 + sigma^2), beta^2 = beta_min^2 + 2 slope log(1 + sigma^2)."""
    beta = (0.1**2 + 2 * (20 - 0.1) * torch.log1p(sigma**2)).sqrt()
    return 2 * sigma / (1 + sigma**2) / beta


@pytest.mark.parametrize(
    ("schedule", "v", "rtol"),
    [
        (Cosine(), lambda sigma: 1 / (1 + sigma**2), 1e-6),
        (Linear(), linear_rate, 1e-6),
        (LogNormal(), lambda s: log_density(LogNormal(), s.log()).exp() / s, 1e-6),
        # the density of Laplace's law has a corner, which PCHIP cuts
        (Laplace(), lambda s: log_density(Laplace(), s.log()).exp() / s, 1e-3),
    ],
    ids=lambda item: repr(item) if is_dataclass(item) else "",
)
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_closed_forms_are_constant_rates(
    process: NoiseProcess, schedule: Schedule, v, rtol: float
) -> None:
    crs = ConstantRate(rate_of(v, process), floor=1e-12)
    close(crs(20, process), schedule(20, process), rtol)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("wide", [LogNormal(0.0, 1e4), Laplace(0.0, 1e6)], ids=repr)
def test_a_wide_law_tends_to_logsnr(process: NoiseProcess, wide: Schedule) -> None:
    close(wide(20, process), LogSNR()(20, process), 1e-4)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_native_is_uniform_in_timesteps(process: NoiseProcess) -> None:
    gaps = process.timestep(Native()(17, process)[:-1]).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(16), rtol=1e-6, atol=0)


@pytest.mark.parametrize("smooth", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_xi_1_does_not_depend_on_the_coordinate(seed: int, smooth: float) -> None:
    rate = bumpy(seed, VE())
    grids = [
        ConstantRate(rate, 1.0, coordinate, smooth=smooth)(25, VE()) for coordinate in COORDINATES
    ]
    for grid in grids[1:]:
        close(grid, grids[0])


@pytest.mark.parametrize("seed", range(4))
def test_other_xi_does(seed: int) -> None:
    one, two = (ConstantRate(bumpy(seed, VE()), 0.5, c)(25, VE()) for c in ("alpha", "logsnr"))
    assert ((one / two).log()[:-1].abs() > 0.05).any()


@pytest.mark.parametrize(
    ("coordinate", "u"),
    [
        ("sigma", lambda sigma: sigma),
        ("alpha", lambda sigma: 1 / (1 + sigma**2)),
        ("angle", torch.atan),
        ("logsnr", lambda sigma: -2 * sigma.log()),
    ],
)
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_xi_0_is_uniform_in_its_coordinate(process: NoiseProcess, coordinate: str, u) -> None:
    grid = ConstantRate(bumpy(1, process), 0.0, coordinate)(16, process)
    at = u(grid[:-1])
    want = torch.linspace(float(at[0]), float(at[-1]), 16, dtype=torch.float64)
    assert (at - want).abs().max() < 1e-6 * (at[0] - at[-1]).abs()


@pytest.mark.parametrize(("xi", "coordinate"), [(0.5, "sigma"), (0.5, "angle"), (2.0, "logsnr")])
def test_xi_is_the_power_of_the_rate_per_coordinate(xi: float, coordinate: str) -> None:
    """The definition: t(u) = integral of v(u)^xi du, with v(u) = v(sigma) |dsigma / du|."""
    process = VE(0.01, 50.0)
    sigma = np.geomspace(0.01, 50.0, 400_001)
    v = 1 / (0.3 + sigma) ** 1.5
    u = {"sigma": sigma, "angle": np.arctan(sigma), "logsnr": 2 * np.log(sigma)}[coordinate]
    v_u = v * np.gradient(sigma, u)
    share = np.concatenate([[0], np.cumsum((v_u[1:] ** xi + v_u[:-1] ** xi) / 2 * np.diff(u))])
    want = np.interp(np.linspace(1, 0, 12), share / share[-1], sigma)
    rate = rate_of(lambda sigma: 1 / (0.3 + sigma) ** 1.5, process)
    grid = ConstantRate(rate, xi, coordinate, floor=1e-12)(12, process)
    np.testing.assert_allclose(grid[:-1], want, rtol=1e-5)


@pytest.mark.parametrize("c", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("coordinate", COORDINATES)
def test_w2_rate_of_a_gaussian_is_linear_in_the_marginal_std(c: float, coordinate: str) -> None:
    process = VE(0.02, 80.0)
    rate = rate_of(lambda sigma: sigma / (c**2 + sigma**2) ** 0.5, process, 4001)
    crs = ConstantRate(rate, 1.0, coordinate, floor=1e-12)
    s = (c**2 + crs(20, process)[:-1] ** 2).sqrt()
    want = torch.linspace(float(s[0]), float(s[-1]), 20, dtype=torch.float64)
    close(s, want)


@pytest.mark.parametrize("factor", [1e-6, 1e5])
def test_scale_of_the_rate_does_not_matter(factor: float) -> None:
    rate = bumpy(2, VE())
    scaled = Rate("scaled", rate.sigma, rate.v * factor)
    close(ConstantRate(scaled, 0.7)(15, VE()), ConstantRate(rate, 0.7)(15, VE()), 1e-9)


def test_a_rate_that_vanishes_somewhere_still_gives_a_grid() -> None:
    rate = rate_of(lambda sigma: torch.where((sigma > 0.1) & (sigma < 1), 0.0, 1 / sigma), VE(), 60)
    for xi in (0.5, 1.0, 2.0):
        assert (ConstantRate(rate, xi)(200, VE()).diff() < 0).all()


@pytest.mark.parametrize(
    ("sigma", "v", "says"),
    [
        ([1, 2, 3, 4], [1, math.nan, 1, 1], "NaN"),
        ([1, 2, 3, math.inf], [1, 1, 1, 1], "infinite"),
        ([1, 2, 3], [1, 1, 1], "at least 4"),
        ([1, 2, 3, 4], [1, -1, 1, 1], ">= 0"),
        ([1, 2, 3, 4], [0, 0, 0, 0], "zero everywhere"),
        ([1, 2, 2, 4], [1, 1, 1, 1], "strictly increasing"),
        ([4, 3, 2, 1], [1, 1, 1, 1], "strictly increasing"),
        ([0, 1, 2, 3], [1, 1, 1, 1], "positive"),
        ([1, 2, 3, 4], [1, 1, 1], "one length"),
        ([[1, 2], [3, 4]], [[1, 1], [1, 1]], "one-dimensional"),
    ],
)
def test_bad_rates_are_refused_by_name(sigma: list, v: list, says: str) -> None:
    with pytest.raises(ValueError, match=f"mine.*{says}"):
        ConstantRate(Rate("mine", torch.tensor(sigma), torch.tensor(v)))


@pytest.mark.parametrize("ends", [(0.1, 80.0), (0.002, 40.0)])
def test_a_rate_measured_on_less_than_the_range_is_refused(ends: tuple[float, float]) -> None:
    rate = rate_of(lambda sigma: 1 / sigma, VE(*ends), 20)
    with pytest.raises(ValueError, match="measure it over that range"):
        ConstantRate(rate)(10, VE())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"coordinate": "snr"}, "known: sigma, alpha, angle, logsnr"),
        ({"xi": -1.0}, "xi"),
        ({"xi": math.nan}, "xi"),
        ({"xi": math.inf}, "xi"),
        ({"floor": 0.0}, "floor"),
        ({"floor": 1.0}, "floor"),
        ({"smooth": -0.1}, "smooth"),
        ({"smooth": 2.1}, "smooth"),
        ({"smooth": math.nan}, "smooth"),
    ],
)
def test_bad_fields_are_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ConstantRate(bumpy(0, VE()), **arguments)


@pytest.mark.parametrize("rho", [0.0, -1.0, math.nan])
def test_karras_needs_a_positive_rho(rho: float) -> None:
    with pytest.raises(ValueError, match="rho > 0"):
        Karras(rho)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Linear(beta_min=0.0), "0 < beta_min < beta_max"),
        (lambda: Linear(beta_min=-1.0), "0 < beta_min < beta_max"),
        (lambda: Linear(20.0, 0.1), "0 < beta_min < beta_max"),
        (lambda: Linear(beta_max=math.inf), "0 < beta_min < beta_max"),
        (lambda: Linear(beta_max=math.nan), "0 < beta_min < beta_max"),
        *((lambda std=std: LogNormal(std=std), "std > 0") for std in (0, -1, math.nan, math.inf)),
        *((lambda mean=mean: LogNormal(mean), "finite mean") for mean in (math.nan, -math.inf)),
        *((lambda b=b: Laplace(scale=b), "scale > 0") for b in (0, -1, math.nan, math.inf)),
        *((lambda mean=mean: Laplace(mean), "finite mean") for mean in (math.nan, math.inf)),
    ],
)
def test_bad_parameters_are_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("schedule", [LogNormal(60.0, 1.0), LogNormal(-99.0), Laplace(3e3)])
def test_a_law_with_no_weight_in_the_range_is_refused(schedule: Schedule) -> None:
    with pytest.raises(ValueError, match="no weight in"):
        schedule(10, VE())


@pytest.mark.parametrize("smooth", [1e-4, 0.3, 2.0])
def test_smoothing_leaves_power_laws_alone(smooth: float) -> None:
    rate = rate_of(lambda sigma: sigma ** (1 / 7 - 1), VE(), 64)
    close(ConstantRate(rate, smooth=smooth)(20, VE()), Karras()(20, VE()))


def test_smoothing_takes_the_jitter_out_of_fine_grids() -> None:
    """The rate is 1 / sigma, with noise of standard deviation 0.3 in log v at every level.

    Without the noise all steps in log sigma are equal. smooth = 0.3 covers 3 levels on each side
    and reduces the variation of the steps by half or more.
    """
    process = VE(0.02, 80.0)
    noise = 0.3 * torch.randn(101, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rate = rate_of(lambda sigma: noise.exp() / sigma, process, 101)
    rough, fine = (
        ConstantRate(rate, smooth=smooth)(100, process)[:-1].log().diff() for smooth in (0.0, 0.3)
    )
    assert fine.std() < 0.5 * rough.std()
    assert 0.1 < (rough / rough.mean()).std() < 0.4


def test_smoothing_is_named_where_there_is_some() -> None:
    rate = bumpy(0, VE())
    assert "smooth" not in repr(ConstantRate(rate))
    assert repr(ConstantRate(rate, smooth=0.3)).endswith(", smooth=0.3)")


def test_labels_tell_schedules_apart() -> None:
    rate = bumpy(0, VE())
    makes = [ConstantRate(rate), ConstantRate(rate, 0.5), ConstantRate(rate, floor=1e-2)]
    makes += [ConstantRate(rate, smooth=0.3), Between(Karras(), 40.0), Between(Karras(), 0.0, 0.1)]
    makes += [Levels((3, 1, 0)), Levels((3, 2, 0)), Between(Native(), 40.0)]
    makes += [ConstantRate(rate, coordinate="angle"), *CLOSED]
    assert len({repr(schedule) for schedule in makes}) == len(makes)


RATE = bumpy(0, VE())
COSTS = costs_of(VE())


@pytest.mark.parametrize(
    ("schedule", "label"),
    [
        (Native(), "Native"),
        (Karras(), "Karras(rho=7)"),
        (KLOptimal(0.7), "KLOptimal(c=0.7)"),
        (KLOptimal(), "KLOptimal(c=1)"),
        (LogNormal(), "LogNormal(mean=-1.2, std=1.2)"),
        (Beta(), "Beta(a=0.6, b=0.6, of=timestep)"),
        (AlignYourSteps(), "AlignYourSteps(table=sd15)"),
        (DMNonUniform("latent"), "DMNonUniform(error=latent)"),
        (Snapped(Karras()), "Snapped(Karras(rho=7))"),
        (Between(Karras(), 40.0), "Between(Karras(rho=7), sigma_max=40)"),
        (Between(Native(), 0.0, 0.1), "Between(Native, sigma_min=0.1)"),
        (ConstantRate(RATE, 0.5), "ConstantRate(exact, xi=0.5, coordinate=alpha)"),
        (
            ConstantRate(RATE, coordinate="angle", smooth=0.3),
            "ConstantRate(exact, xi=1, coordinate=angle, smooth=0.3)",
        ),
        (CheapestPath(COSTS), "CheapestPath(random)"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_a_label_shows_the_main_parameters_and_can_be_built(schedule: Schedule, label: str) -> None:
    assert schedule.label == label
    measured = {one.name: one for one in schedule.measured}
    assert names.build(label, schedules, measured) == schedule


@pytest.mark.parametrize("kind", names.public(schedules).values(), ids=lambda kind: kind.__name__)
def test_what_labels_show_enters_no_spec(kind: type[Schedule]) -> None:
    fields = {one.name: one for one in dataclasses.fields(kind)}
    assert set(kind.shown) <= fields.keys()
    if all(one.default is not dataclasses.MISSING for one in fields.values()):
        assert kind().spec() == {"class": kind.__name__, "fields": {}}
        assert all(f"{name}=" in kind().label for name in kind.shown)


@pytest.mark.parametrize("schedule", [Native(), LogSNR(), Karras(), Mine()], ids=repr)
def test_snapped_moves_levels_to_trained_timesteps(schedule: Schedule) -> None:
    process = VP()
    grid, snapped = schedule(10, process), Snapped(schedule)(10, process)
    index = process.timestep(snapped[:-1])
    torch.testing.assert_close(index, index.round(), rtol=0, atol=1e-8)
    assert (index - process.timestep(grid[:-1])).abs().max() <= 0.5 + 1e-8
    assert snapped[-1] == 0
    assert (snapped.diff() < 0).all()


def test_snapped_refuses_to_merge_levels() -> None:
    with pytest.raises(ValueError, match="two levels on one trained timestep"):
        Snapped(Karras())(50, VP("cosine", 20))


ENDS = [(40.0, 0.05), (0.0, 0.05), (40.0, 0.0), (0.0, 0.0)]


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("schedule", [*CLOSED, Mine(), "bumpy"], ids=str)
def test_between_is_the_schedule_of_a_narrower_process(schedule, ends: tuple) -> None:
    """An end of 0 is that of the process. The timesteps are those of the whole process."""
    whole = VP("cosine", 1000, 0.01, 80.0)
    narrow = VP("cosine", 1000, ends[1] or 0.01, ends[0] or 80.0)
    schedule = ConstantRate(bumpy(3, whole)) if schedule == "bumpy" else schedule
    for steps in (1, 2, 9):
        grid = Between(schedule, *ends)(steps, whole)
        close(grid, schedule(steps, narrow), 1e-12)
        assert grid[0] == narrow.sigma_max and grid[-1] == 0


@pytest.mark.parametrize("ends", [(90.0, 0.0), (0.0, 0.001), (1.0, 2.0), (2.0, 2.0), (math.inf, 0)])
def test_between_refuses_ends_outside_the_models_range(ends: tuple) -> None:
    with pytest.raises(ValueError, match="do not lie within the model's 0.002 .. 80"):
        Between(Karras(), *ends)(10, VE())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Between("Karras()"), "needs a schedule"),
        (lambda: Between(Karras(), -1.0), "above 0, or 0"),
        (lambda: Between(Karras(), 0.0, -1.0), "above 0, or 0"),
        (lambda: Snapped(7), "needs a schedule"),
        (lambda: ConstantRate("v_x"), "needs a measured Rate"),
    ],
)
def test_wrong_kinds_are_refused_when_built(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_levels_are_exact_with_their_own_number_of_steps() -> None:
    given = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113, 0.029, 0)
    grid = Levels(given)(11, VE())
    assert grid.dtype == torch.float64
    assert grid.tolist() == list(given)


@pytest.mark.parametrize("steps", [2, 5, 11, 40])
def test_other_numbers_of_steps_are_log_linear_between_levels(steps: int) -> None:
    """A straight log sigma stays straight. The ends stay. A corner keeps its time."""
    straight = Levels((*np.geomspace(80, 0.02, 7), 0), resample=True)(steps, VE())
    close(straight[:-1], torch.as_tensor(np.geomspace(80, 0.02, steps)), 1e-12)
    bent = Levels((64.0, 4.0, 2.0, 0), resample=True)
    grid = bent(steps, VE())
    assert (grid.diff() < 0).all() and grid[-1] == 0
    time = torch.linspace(0, 1, steps, dtype=torch.float64)
    want = torch.where(time < 0.5, 6 - 8 * time, 3 - 2 * time).exp2()  # log2: 6 to 2, then to 1
    close(grid[:-1], want, 1e-12)
    assert bent(1, VE()).tolist() == pytest.approx([64.0, 0.0])


@pytest.mark.parametrize(
    "sigmas",
    [(), (0,), (3,), (3, 1), (3, 3, 0), (1, 3, 0), (3, 1, 0, 0), (3, 1, -1), (math.inf, 1, 0),
     (3, math.nan, 0)],
)  # fmt: skip
def test_levels_that_do_not_fall_to_0_are_refused(sigmas: tuple) -> None:
    with pytest.raises(ValueError, match="fall strictly from above 0 to 0"):
        Levels(sigmas)


def test_one_level_has_one_step() -> None:
    assert Levels((80, 0))(1, VE()).tolist() == [80, 0]
    with pytest.raises(ValueError, match="a grid of 1 steps, not of 3"):
        Levels((80, 0))(3, VE())
    with pytest.raises(ValueError, match="too few to interpolate 3 steps"):
        Levels((80, 0), resample=True)(3, VE())
    with pytest.raises(ValueError, match="at least 1 step"):
        Levels((80, 3, 0))(0, VE())


def test_levels_load_from_a_written_grid(tmp_path: Path) -> None:
    grid, path = Karras()(8, VE()), tmp_path / "karras.json"
    path.write_text(json.dumps({"model": "any", "sigma": grid.tolist()}))
    assert torch.equal(load(path)(8, VE()), grid)


@pytest.mark.parametrize(
    "text", [None, "{", "[]", "{}", '{"sigma": 3}', '{"sigma": ["a"]}', '{"sigma": [3, 4, 0]}']
)
def test_a_file_without_a_grid_is_named(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match="mine.json"):
        load(path)


def test_a_users_schedule_is_a_schedule() -> None:
    assert isinstance(Mine(), Schedule)
    assert Snapped(Mine())(5, VP()).shape == (6,)


@pytest.mark.parametrize("sigmas", [(81.0, 1.0, 0), (80.0, 0.001, 0)])
def test_levels_of_another_model_are_refused(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="of another model"):
        Levels(sigmas)(2, VE(0.002, 80.0))
