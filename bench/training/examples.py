"""All training states in memory. Pixels stay uint8 and become floats batch by batch."""

from collections.abc import Iterator

import torch
from torch import Tensor


class Examples:
    """The states that a network trains on, float32 in batches, on the network's device."""

    def __init__(self, values: Tensor, device: str) -> None:
        """
        Arguments:
            values: uint8 pixels [n, c, h, w], or float32 latents; on the device, or on the CPU.
        """
        self.values, self.device = values, torch.device(device)
        # a table, so that a CPU and a GPU give the same bits
        self.levels = (torch.arange(256).float() / 127.5 - 1).to(device)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, pick: Tensor) -> Tensor:
        """The states of these indices, int64 [k]: float32 [k, c, h, w]."""
        return self._floats(self.values[pick.to(self.values.device)])

    def split(self, size: int) -> Iterator[Tensor]:
        """All states in order, in batches."""
        return map(self._floats, self.values.split(size))

    def _floats(self, found: Tensor) -> Tensor:
        found = found.to(self.device, non_blocking=True)
        return self.levels[found.int()] if found.dtype == torch.uint8 else found


def kept(images: Tensor, device: str, flip: bool) -> Examples:
    """Images where training reads them: on the device, or on the CPU if they take half of what the
    device has free.

    Arguments:
        images: uint8 [n, c, h, w].
        flip: whether their mirror images follow them.
    """
    size = images.numel() * (2 if flip else 1)
    fits = not device.startswith("cuda") or size < torch.cuda.mem_get_info(device)[0] / 2
    values = images.to(device) if fits else images
    if flip:
        values = torch.cat([values, values.flip(-1)])
    return Examples(values if fits else values.pin_memory(), device)
