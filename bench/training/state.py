"""A training that can be stopped and started: all that it changes, saved whole every minute."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm


class _Recipe(Protocol):
    """What every recipe says of its length."""

    @property
    def steps(self) -> int: ...
    @property
    def minutes(self) -> float: ...
    @property
    def ema(self) -> float: ...
    @property
    def seed(self) -> int: ...


class Resumable:
    """A network in training, its moving average and its generator of random numbers.

    A subclass names further objects with a state_dict in `parts`.
    """

    parts: tuple[str, ...] = ("net", "optimizer")
    optimizer: Any

    def __init__(self, recipe: _Recipe, net: Any, device: str):
        self.recipe: Any = recipe
        self.device = device
        self.net: Any = net.to(device).to(memory_format=torch.channels_last)
        self.parameters: list[Tensor] = list(self.net.parameters())
        self.ema = [p.detach().clone() for p in self.parameters]
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.step, self.elapsed = 0, 0.0

    def state(self) -> dict[str, Any]:
        """All that `load` puts back."""
        return {name: getattr(self, name).state_dict() for name in self.parts} | {
            "ema": self.ema, "generator": self.generator.get_state(), "step": self.step,
            "elapsed": self.elapsed, "recipe": repr(self.recipe),
        }  # fmt: skip

    def save(self, path: Path) -> None:
        """Write all of it, whole; refuses weights that are not finite, so the last good stays."""
        if not all(bool(torch.isfinite(p).all()) for p in self.ema):
            raise FloatingPointError(
                f"training diverged before step {self.step}: lower --rate; {path} is still good"
            )
        temporary = path.with_suffix(".tmp")
        torch.save(self.state(), temporary)
        temporary.replace(path)

    def load(self, path: Path) -> dict[str, Any]:
        """Put a saved state back; returns it. ValueError: it is of another recipe."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise ValueError(
                f"{path} is the state of another recipe; repeat the options it was started with, "
                "or delete it to start anew"
            )
        for name in self.parts:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        torch._foreach_copy_(self.ema, state["ema"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        return state

    def progress(self) -> float:
        """Share of training done, 0 .. 1."""
        if self.recipe.steps:
            return self.step / self.recipe.steps
        return self.elapsed / (60 * self.recipe.minutes)

    def advance(self) -> None:
        """The step is done: the average follows the weights, slowly once it has begun."""
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        self.step += 1

    def turns(self, what: str, path: Path) -> Iterator[None]:
        """One turn a step until training is done; keeps time and log, and saves to `path`.

        FloatingPointError: the weights became NaN.
        """
        bar = tqdm(total=100, unit="%", disable=None, desc=what)
        begin = last = saved = time.monotonic()
        while self.progress() < 1:
            yield
            if self.step % 20 == 1 and self.ema[0].isnan().any():  # waits for the device, only here
                raise FloatingPointError(f"training diverged at step {self.step}: lower --rate")
            now = time.monotonic()
            if self.step > 1:  # the first step compiles; minutes are minutes of training
                self.elapsed += now - last
            last = now
            bar.n = int(100 * min(1.0, self.progress()))
            rate = self.step / (now - begin)
            bar.set_postfix_str(f"step {self.step}, {rate:.1f}/s", refresh=False)
            bar.update(0)
            if now - saved > (60 if now - begin > 60 else 10):  # a short run loses little too
                self.save(path)
                saved = now
        bar.close()
