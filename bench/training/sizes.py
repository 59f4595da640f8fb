"""What networks that halve their images can take."""


def check_blocks(channels: tuple[int, ...], layers: int) -> None:
    """ValueError: channels that are no multiples of 8, as norms of 8 groups want, or no layers."""
    if layers < 1 or min(channels, default=0) < 1 or any(one % 8 for one in channels):
        raise ValueError(f"channels must be multiples of 8 and layers at least 1, not {channels} "
                         f"and {layers}")  # fmt: skip


def check_halving(what: str, height: int, width: int, channels: tuple[int, ...]) -> int:
    """By how much the sides shrink: they halve once for each further number of channels.

    what: what is halved, for the message.

    Raises:
        ValueError: sides that cannot be halved so often.
    """
    cut = 2 ** (len(channels) - 1)
    if height % cut or width % cut:
        raise ValueError(f"{what} of {height} x {width} cannot be halved {len(channels) - 1} times,"
                         " once for each further number of channels; give fewer channels, or "
                         f"another size (--size {max(1, height // cut) * cut})")  # fmt: skip
    return cut
