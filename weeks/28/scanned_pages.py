r"""From a scan to black and white, upright, with each region of white paper that lines enclose.

Otsu's threshold splits gray values where the variance between the two sides is largest,

$$ \sigma_b^2(t) = w_0(t)\, w_1(t)\, (\mu_0(t) - \mu_1(t))^2 . $$

A page is upright where the projections of its ink on both axes are most uneven.

>>> square = np.full((60, 60), 255, dtype=np.uint8)
>>> square[20:41, 20:41] = 0
>>> square[22:39, 22:39] = 255
>>> int(otsu(square)), enclosed(ink_of(square), least=10)
(0, [(22, 22, 39, 39)])

Sources: N. Otsu, "A threshold selection method from gray-level histograms" (1979), equation 14;
the projection profile: W. Postl, "Detection of linear oblique structures and skew scan in digitized
documents" (1986).
"""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage

from shared.arguments import checked
from shared.require import require

Picture = UInt8[np.ndarray, "height width"]
Ink = Bool[np.ndarray, "height width"]
Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two are beyond
MOST_DEGREES = 8.0


@checked
def otsu(image: UInt8[np.ndarray, "*shape"]) -> int:
    """The highest gray value of the darker class."""
    count = np.bincount(image.ravel(), minlength=256).astype(float)
    below, total = np.cumsum(count), count.sum()
    mass = np.cumsum(count * np.arange(256))
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return int(np.nanargmax(np.nan_to_num(between)))


@checked
def even_light(image: Picture, step: int = 16) -> Picture:
    """The page with the light of its paper divided out: the median of each tile, smoothed."""
    high, wide = (side // step for side in image.shape)
    require(min(high, wide) >= 1, f"image must have {step} pixels a side", image.shape)
    tiles = image[: high * step, : wide * step].reshape(high, step, wide, step)
    paper = ndimage.gaussian_filter(np.median(tiles, axis=(1, 3)), 1.0, mode="nearest")
    paper = np.asarray(
        Image.fromarray(paper.astype(np.float32)).resize(
            image.shape[::-1], Image.Resampling.BILINEAR
        )
    )
    return (image / paper.clip(1) * 240).clip(0, 255).astype(np.uint8)


@checked
def ink_of(image: Picture, *, smooth: float = 0.7, specks: int = 12) -> Ink:
    """Black pixels of a page in even light, without spots of fewer pixels than `specks`."""
    blurred = ndimage.gaussian_filter(image, smooth)
    ink = blurred <= min(otsu(blurred), 200)
    marks, _ = ndimage.label(ink, np.ones((3, 3)))
    large = np.bincount(marks.ravel()) >= specks
    large[0] = False
    return large[marks]


@checked
def skew(ink: Ink, *, step: float = 0.1) -> float:
    """By how many degrees, counterclockwise, the page has to be turned to stand upright."""
    y, x = np.nonzero(ink)
    if not len(y):
        return 0.0
    keep = slice(None, None, 1 + len(y) // 8000)
    y, x = y[keep] - ink.shape[0] / 2, x[keep] - ink.shape[1] / 2
    size = sum(ink.shape)

    def uneven(degrees: float) -> float:
        a = np.deg2rad(degrees)
        parts = (y * np.cos(a) - x * np.sin(a), x * np.cos(a) + y * np.sin(a))
        return sum(
            float((np.bincount((part + size).astype(int)).astype(float) ** 2).sum())
            for part in parts
        )

    coarse = np.arange(-MOST_DEGREES, MOST_DEGREES + 0.01, 0.4)
    best = max(coarse, key=uneven)
    return float(max(np.arange(best - 0.4, best + 0.41, step), key=uneven))


@checked
def upright(image: Picture) -> tuple[Picture, Ink]:
    """The page in even light, turned upright, and its ink."""
    flat = even_light(image)
    ink = ink_of(flat)
    angle = skew(ink)
    if abs(angle) >= 0.05:
        turned = Image.fromarray(flat).rotate(angle, Image.Resampling.BICUBIC, fillcolor=240)
        flat = np.asarray(turned)
        ink = ink_of(flat)
    return flat, ink


@checked
def line_width(ink: Ink) -> float:
    """The median length of runs of ink across the page, letters and slopes among them."""
    edges = np.diff(np.pad(ink, ((0, 0), (1, 1))).astype(np.int8), axis=1).ravel()
    lengths = np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)
    return float(np.median(lengths[lengths < 12])) if len(lengths) else 1.0


@checked
def enclosed(ink: Ink, *, least: int = 22) -> list[Box]:
    """Boxes of the regions of paper that lines enclose, at least so wide and high."""
    closed = ndimage.binary_closing(ink, np.ones((3, 3)))
    regions, _ = ndimage.label(~np.pad(closed, 1))
    found = []
    for number, place in enumerate(ndimage.find_objects(regions), start=1):
        rows, columns = place
        if (
            number == regions[0, 0]
            or min(rows.stop - rows.start, columns.stop - columns.start) < least
        ):
            continue
        found.append((columns.start - 1, rows.start - 1, columns.stop - 1, rows.stop - 1))
    return found
