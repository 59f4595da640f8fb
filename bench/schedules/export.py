"""Grids in the form that other programs take. Their sigma is ours: noise over signal."""

import json
from collections.abc import Callable

import numpy as np

from bench.lazy import Tensor
from bench.process import VP
from bench.types import NoiseProcess


def export(form: str, grid: np.ndarray | Tensor, process: NoiseProcess) -> tuple[str, str]:
    """Write a grid for another program.

    Levels are rounded to float32, in which these programs keep them.

    Arguments:
        form: diffusers, k-diffusion or comfyui.
        grid: float64 [steps + 1], decreasing, as a schedule gives it.
        process: of the model. Whole timesteps are those of its training.

    Returns:
        What the program takes, and in words what to do with it and what was rounded.

    Raises:
        ValueError: an unknown form, or two levels that are one number in float32.
    """
    if form not in FORMS:
        raise ValueError(f"--format {form!r} is not known; known: {', '.join(FORMS)}")
    levels = grid.numpy() if isinstance(grid, Tensor) else grid
    if (np.diff(levels.astype(np.float32)) >= 0).any():
        raise ValueError("two levels are one number in float32, which the other program uses; "
                         "use fewer steps")  # fmt: skip
    return FORMS[form](levels, process)


def _shortest(grid: np.ndarray) -> list[str]:
    """Each level in the fewest digits that give its float32, without an exponent."""
    return [np.format_float_positional(level, trim="0") for level in grid.astype(np.float32)]


def _k_diffusion(grid: np.ndarray, process: NoiseProcess) -> tuple[str, str]:
    note = "k-diffusion: sigmas = torch.tensor([...]) is what K.sampling.sample_* take"
    return f"[{', '.join(_shortest(grid))}]", note


def _comfyui(grid: np.ndarray, process: NoiseProcess) -> tuple[str, str]:
    return ", ".join(_shortest(grid)), "ComfyUI: the node ManualSigmas takes this text"


def _diffusers(grid: np.ndarray, process: NoiseProcess) -> tuple[str, str]:
    sigmas = [float(text) for text in _shortest(grid)]
    timesteps, why = whole_timesteps(grid, process)
    note = (
        "diffusers: schedulers whose set_timesteps takes sigmas walk exactly these levels; "
        f"those that take timesteps: {why}"
    )
    return json.dumps({"sigmas": sigmas, "timesteps": timesteps}), note


FORMS: dict[str, Callable[[np.ndarray, NoiseProcess], tuple[str, str]]] = {
    "diffusers": _diffusers, "k-diffusion": _k_diffusion, "comfyui": _comfyui,
}  # fmt: skip


def whole_timesteps(grid: np.ndarray, process: NoiseProcess) -> tuple[list[int] | None, str]:
    """The nearest whole timestep of each level above the last, as `Snapped` has them.

    Returns:
        The timesteps, or None where there are none; and in words what rounding did.
    """
    if not isinstance(process, VP):
        return None, "this model has no whole timesteps"
    if grid[-1] > 0:
        return None, "none, since they always end at 0, and this grid does not"
    whole = process.timestep(grid[:-1]).round()
    if (np.diff(whole) >= 0).any():
        return None, "none, since two levels have one whole timestep; use fewer steps"
    moved = np.abs(process.sigma(whole) / grid[:-1] - 1).max()
    return [int(one) for one in whole], (
        f"whole timesteps, which moves a level by up to {moved:.2%}, as Snapped does"
    )
