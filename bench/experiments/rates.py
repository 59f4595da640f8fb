"""The measured rates and the constant-rate schedules that all experiments here use."""

from bench import measures
from bench.checkpoints import Models, models_of
from bench.schedules import ConstantRate, Coordinate
from bench.types import Rate

SMOOTH = 0.3  # nats of sigma; the predictions of a network jitter between neighbouring timesteps


def rate_of(models: Models, model: str, name: str) -> Rate:
    """A measured rate of a model.

    Arguments:
        name: v_x, say.

    Raises:
        ValueError: the model has no measurement of that name, or it is not a rate.
    """
    found = measures.find(models_of(models).homes(model), name)
    if not isinstance(found, Rate):
        raise ValueError(f"{name} of {model} is not a rate but {type(found).__name__}")
    return found


def crs(rate: Rate, xi: float, coordinate: Coordinate = "angle") -> ConstantRate:
    """Constant Rate Scheduling with a smoothed rate."""
    return ConstantRate(rate, xi, coordinate, smooth=SMOOTH)
