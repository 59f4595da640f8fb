"""Schedules that optimisation finds, and published tables of optimised levels."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from bench.process import VE, VP
from bench.schedules import AlignYourSteps, DMNonUniform, Karras, LogSNR, Native
from bench.schedules.optimised import _search, bound

PROCESS = VP("cosine", 1000, 0.01, 80.0)


def summed(levels: np.ndarray, error: str) -> float:
    """The bound by its definition: one step and one level at a time, integrals by quadrature."""
    n = len(levels) - 1
    sigma = np.exp(-levels)
    e = sigma if error == "pixel" else sigma**2 / np.sqrt(1 + sigma**2)
    total, together = 0.0, np.zeros(n)
    for step in range(n):
        order = 1 if step in (0, n - 1) else 2 if step in (1, n - 2) else 3
        nodes = range(step - order + 1, step + 1)
        terms = []
        for i in nodes:
            others = [levels[j] for j in nodes if j != i]

            def integrand(x: float, i: int = i, others: list = others) -> float:
                return np.exp(x) * np.prod([(x - o) / (levels[i] - o) for o in others])

            terms.append(e[i] * quad(integrand, levels[step], levels[step + 1])[0])
        if step in (0, n - 1) or (n <= 7 and step < 3):
            total += float(np.linalg.norm(terms))
        else:
            together[list(nodes)] += terms
    return total + float(np.abs(together).sum())


@pytest.mark.parametrize("error", ["pixel", "latent"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 12])
def test_bound_is_that_of_the_definition(n: int, error: str) -> None:
    levels = np.sort(np.random.default_rng(n).uniform(-4, 4, n + 1))
    assert float(bound(levels, error)) == pytest.approx(summed(levels, error), rel=1e-7)


@pytest.mark.parametrize("error", ["pixel", "latent"])
@pytest.mark.parametrize("process", [PROCESS, VP("linear"), VE()], ids=repr)
@pytest.mark.parametrize("steps", [3, 5, 8, 10, 20, 30])
def test_no_baseline_has_a_lower_bound(steps: int, process, error: str) -> None:
    def of(schedule) -> float:
        return float(bound(-np.log(schedule(steps, process)[:-1].numpy()), error))

    baselines = [of(schedule) for schedule in (Native(), LogSNR(), Karras())]
    assert of(DMNonUniform(error)) <= min(baselines) * (1 + 1e-9)


def test_five_steps_are_the_optimum_that_every_start_leads_to() -> None:
    """SLSQP with exact gradients found these steps from three starts, with other code."""
    steps = -DMNonUniform()(6, PROCESS)[:-1].log().numpy()
    want = [2.784, 0.954, 0.955, 1.270, 3.025]
    np.testing.assert_allclose(np.diff(steps), want, atol=2e-3)


@pytest.mark.parametrize("error", ["pixel", "latent"])
def test_rounding_does_not_move_the_levels(error: str) -> None:
    start = (-LogSNR()(12, PROCESS)[:-1].log()).numpy()
    nudge = 1e-13 * np.random.default_rng(0).standard_normal(12)
    one, two = (_search(tuple(at.tolist()), error) for at in (start, start + nudge))
    np.testing.assert_allclose(one, two, atol=1e-9)


def test_many_steps_are_log_snr() -> None:
    assert torch.equal(DMNonUniform("latent")(61, PROCESS), LogSNR()(61, PROCESS))


TABLE = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]


def test_align_your_steps_is_its_table_on_the_process_it_was_made_for() -> None:
    grid = AlignYourSteps()(11, VE(0.029, 14.615))
    np.testing.assert_allclose(grid.numpy(), [*TABLE, 0], rtol=1e-12)
    close = AlignYourSteps()(11, VE(0.0291671582, 14.6146412293))
    np.testing.assert_allclose(close[:-1], TABLE, rtol=0.01)


def test_align_your_steps_is_stretched_in_log_sigma() -> None:
    grid = AlignYourSteps()(11, PROCESS)[:-1].log().numpy()
    slope, offset = np.polyfit(np.log(TABLE), grid, 1)
    np.testing.assert_allclose(grid, slope * np.log(TABLE) + offset, atol=1e-9)
    assert grid[0] == pytest.approx(np.log(80)) and grid[-1] == pytest.approx(np.log(0.01))


def test_align_your_steps_between_levels_is_log_linear() -> None:
    coarse, fine = (AlignYourSteps("svd")(steps, PROCESS)[:-1].log() for steps in (11, 21))
    torch.testing.assert_close(fine[::2], coarse)
    torch.testing.assert_close(fine[1::2], (coarse[1:] + coarse[:-1]) / 2)


@pytest.mark.parametrize("make", [lambda: DMNonUniform("x"), lambda: AlignYourSteps("sd3")])
def test_unknown_names_are_refused(make) -> None:
    with pytest.raises(ValueError, match="unknown (error|table).*known: "):
        make()
