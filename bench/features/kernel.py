"""The Triton kernel of `windows`. It can be imported only where Triton is installed."""

import triton
import triton.language as tl


@triton.jit
def _relu6(x):  # type: ignore[no-untyped-def]  # Triton gives annotations another meaning
    return tl.clamp(x, 0.0, 6.0, propagate_nan=tl.PropagateNan.ALL)


# they differ between stages; Triton would compile the kernel again for some of their values
_SIZES = ["count", "height", "width", "out_height", "out_width", "stride", "top", "left"]


@triton.jit(do_not_specialize=_SIZES)
def over_windows(  # type: ignore[no-untyped-def]
    x, weight, bias, y,
    count, height, width, out_height, out_width, channels, stride, top, left,
    KIND: tl.constexpr, SIZE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Writes `count` output pixels of channels-last images. A program writes PIXELS x CHANNELS.

    Arguments:
        x: [n, height, width, channels].
        weight, bias: of KIND "product", [SIZE SIZE, channels] and [channels].
        y: [n, out_height, out_width, channels], which is written.
        top, left: the first window begins so many pixels outside the image.
        KIND: "greatest"; "mean", which adds a ReLU; or "product", a convolution of each channel
            with ReLU6 before and after it.
        SIZE: side of the windows.
    """
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    live = pixel < count
    line = pixel // out_width
    first_row = line % out_height * stride - top
    first_column = pixel % out_width * stride - left
    image = line // out_height
    start = -float("inf") if KIND == "greatest" else 0.0
    total = tl.full([PIXELS, CHANNELS], start, tl.float32)
    inside = tl.zeros([PIXELS], tl.float32)
    for i in tl.static_range(SIZE):
        for j in tl.static_range(SIZE):
            row, column = first_row + i, first_column + j
            here = live & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = ((image * height + row) * width + column) * channels
            at = x + place[:, None] + channel[None, :]
            value = tl.load(at, mask=here[:, None], other=start).to(tl.float32)
            if KIND == "greatest":
                total = tl.maximum(total, value, propagate_nan=tl.PropagateNan.ALL)
            elif KIND == "mean":
                total += value
                inside += here.to(tl.float32)
            else:
                tap = tl.load(weight + (i * SIZE + j) * channels + channel).to(tl.float32)
                total += _relu6(value) * tap[None, :]
    if KIND == "mean":
        total = tl.maximum(total / inside[:, None], 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif KIND == "product":
        total += tl.load(bias + channel).to(tl.float32)[None, :]
        total = _relu6(total)
    to = y + (pixel * channels)[:, None] + channel[None, :]
    tl.store(to, total.to(y.dtype.element_ty), mask=live[:, None])
