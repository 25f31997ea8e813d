"""The 19 common corruptions, one image at a time, written plainly from their specification.

This is what the library's batched tensors are tested and timed against, so it shares nothing with them:
NumPy, SciPy and Pillow only, loops where the benchmark has loops, its own copy of the constants. An image
is (H, W, 3) float64 in [0, 1]; `reference` returns uint8, truncated as in the published data sets. Every
random corruption is a draw followed by a deterministic function of what was drawn (`glass_copy`,
`motion_blur`, `snow_from_field` and so on), so that a test can give both sides the same random field.

Constants are used as tabulated whatever the size of the image: scaling them is the library's affair.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

# One row per severity. The names of a row's entries stand in the function that unpacks it.
IMAGENET = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": (
        (244 * 2, 244 * 0.7, 244 * 0.1),
        (244 * 2, 244 * 0.08, 244 * 0.2),
        (244 * 0.05, 244 * 0.01, 244 * 0.02),
        (244 * 0.07, 244 * 0.01, 244 * 0.02),
        (244 * 0.12, 244 * 0.01, 244 * 0.02),
    ),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": (25, 18, 15, 10, 7),
    "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
    "gaussian_blur": (1, 2, 3, 4, 6),
    "spatter": (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}
CIFAR = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": (
        (32 * 0.0, 32 * 0.0, 32 * 0.08),
        (32 * 0.05, 32 * 0.2, 32 * 0.07),
        (32 * 0.08, 32 * 0.06, 32 * 0.06),
        (32 * 0.1, 32 * 0.04, 32 * 0.05),
        (32 * 0.1, 32 * 0.03, 32 * 0.03),
    ),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}
TABLES = {"imagenet": IMAGENET, "cifar": CIFAR}
NAMES = tuple(IMAGENET)


def reference(
    name: str,
    image: np.ndarray,
    severity: int,
    rng: np.random.Generator,
    table: str,
    *,
    frost: list[np.ndarray] | None = None,
) -> np.ndarray:
    """One corruption of one image at one severity (1 to 5), as uint8."""
    constants = TABLES[table][name][severity - 1]
    if name == "frost":
        if frost is None:
            raise ValueError("frost needs the photographs")
        crop = frost_crop(frost, image.shape[:2], rng, shrink=table == "cifar")
        return quantise(frost_blend(image, crop, *constants))
    if name in RANDOM:
        return quantise(RANDOM[name](image, constants, rng))
    return quantise(DETERMINISTIC[name](image, constants))


def quantise(image: np.ndarray) -> np.ndarray:
    """Clip to [0, 1] and truncate to uint8, as the published data sets were."""
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def to_pillow(image: np.ndarray) -> Image.Image:
    """The image a codec or resampler of bytes is given: rounded, so that whole levels stay what they are."""
    return Image.fromarray(np.rint(image * 255).astype(np.uint8))


# ---------------------------------------------------------------------------------------------- noise


def gaussian_noise(image, sigma, rng):
    """Independent normal noise per element."""
    return image + rng.normal(0, sigma, image.shape)


def speckle_noise(image, sigma, rng):
    """Normal noise in proportion to the element."""
    return image + image * rng.normal(0, sigma, image.shape)


def shot_noise(image, photons, rng):
    """Poisson counts, `photons` of them at full brightness."""
    return rng.poisson(image * photons) / photons


def impulse_noise(image, amount, rng):
    """Elements replaced by 0 or 1, each as likely."""
    replaced = rng.random(image.shape) < amount
    return impulse_replace(image, replaced, rng.random(image.shape) < 0.5)


def impulse_replace(image, replaced, salt):
    """Put 1 where `replaced` and `salt`, 0 where `replaced` and not `salt`."""
    return np.where(replaced, salt.astype(float), image)


# ---------------------------------------------------------------------------------------------- blurs


def gaussian_blur(image, sigma):
    """Separable Gaussian over rows and columns, cut at 4 sigma, nearest-edge padding."""
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=4)


def disk_kernel(radius, alias_sigma):
    """A normalised disk, smoothed by a small Gaussian; the smoothing mirrors at the edge of its grid."""
    reach = max(8, radius)
    taps = 3 if radius <= 8 else 5
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(np.float32)
    disk /= disk.sum()
    smooth = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * alias_sigma**2))
    for direction in (0, 1):
        disk = ndimage.correlate1d(disk, smooth / smooth.sum(), axis=direction, mode="mirror")
    return disk.astype(float)  # through float32, as published: it decides which way flat areas truncate


def defocus_blur(image, constants):
    """Correlation with the disk, borders mirrored without repeating the edge."""
    kernel = disk_kernel(*constants)
    return np.stack([ndimage.correlate(image[..., k], kernel, mode="mirror") for k in range(3)], axis=-1)


def glass_blur(image, constants, rng):
    """Blur, truncate, copy random neighbours in a fixed order, blur again."""
    sigma, delta, iterations = constants
    offsets = rng.integers(-delta, delta, (2, iterations, *image.shape[:2]))
    pixels = glass_copy(quantise(gaussian_blur(image, sigma)), offsets[0], offsets[1], delta)
    return gaussian_blur(pixels / 255, sigma)


def glass_copy(image_uint8, dx, dy, delta):
    """The literal copying loop; `dx` and `dy` are (iterations, H, W), indexed by the pixel written to."""
    pixels = image_uint8.copy()
    height, width = pixels.shape[:2]
    for step_x, step_y in zip(dx, dy, strict=True):
        for h in range(height - delta, delta, -1):
            for w in range(width - delta, delta, -1):
                pixels[h, w] = pixels[h + step_y[h, w], w + step_x[h, w]]
    return pixels


def motion_blur_at_random_angle(image, constants, rng):
    """Motion blur in a direction within 45 degrees of the horizontal."""
    return motion_blur(image, rng.uniform(-45, 45), *constants)


def motion_blur(image, angle, radius, sigma):
    """One-sided Gaussian average over whole-pixel steps along `angle` (degrees), cut down to whole levels."""
    height, width = image.shape[:2]
    total = np.zeros_like(image)
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    for i, weight in enumerate(weights / weights.sum()):
        across = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + across, 0, width - 1)
        total += weight * image[rows[:, None], columns]
    return np.floor(total * 255 + 1e-6) / 255


def zoom_blur(image, constants):
    """Mean of the image and its centre zooms, the first of which is the image again."""
    zooms = np.arange(1, *constants)
    return (image + sum(centre_zoom(image, zoom) for zoom in zooms)) / (len(zooms) + 1)


def centre_zoom(image, zoom):
    """Crop ceil(side / zoom) from the centre, enlarge with aligned corners, trim back to the centre."""
    for axis in (0, 1):
        side = image.shape[axis]
        crop = math.ceil(side / zoom)
        enlarged = round(crop * zoom)
        start, trim = (side - crop) // 2, (enlarged - side) // 2
        positions = start + np.linspace(0, crop - 1, enlarged)[trim : trim + side]
        low = np.minimum(np.floor(positions).astype(int), side - 2)
        fraction = (positions - low).reshape(-1, *[1] * (image.ndim - axis - 1))
        image = np.take(image, low, axis) * (1 - fraction) + np.take(image, low + 1, axis) * fraction
    return image


# -------------------------------------------------------------------------------------------- weather


def snow(image, constants, rng):
    """Flakes of enlarged, thresholded, motion-blurred noise over a whitened image."""
    field = rng.normal(*constants[:2], image.shape[:2])
    return snow_from_field(image, field, rng.uniform(-135, -45), constants)


def snow_from_field(image, field, angle, constants):
    """Snow from a drawn field (H, W) and a drawn direction of fall."""
    _, _, zoom, threshold, radius, sigma, keep = constants
    layer = centre_zoom(field, zoom)
    layer = np.where(layer < threshold, 0, layer)
    layer = motion_blur(quantise(layer) / 255, angle, radius, sigma)[..., None]
    gray = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    whitened = keep * image + (1 - keep) * np.maximum(image, 1.5 * gray + 0.5)
    return whitened + layer + layer[::-1, ::-1]


def frost_crop(photographs, size, rng, *, shrink):
    """A random crop, in [0, 1], of one of the first five photographs."""
    photograph = photographs[rng.integers(5)]
    if shrink:  # to a fifth: the bilinear sample at 5 * (i + 0.5) - 0.5 is pixel 5 * i + 2 itself
        rows, columns = (round(side / 5) for side in photograph.shape[:2])
        photograph = photograph[2::5, 2::5][:rows, :columns]
    scale = max(size[0] / photograph.shape[0], size[1] / photograph.shape[1])
    if scale > 1:
        larger = [math.ceil(scale * photograph.shape[k]) for k in (1, 0)]
        photograph = np.asarray(Image.fromarray(photograph).resize(larger, Image.Resampling.BILINEAR))
    top = rng.integers(max(1, photograph.shape[0] - size[0]))
    left = rng.integers(max(1, photograph.shape[1] - size[1]))
    return photograph[top : top + size[0], left : left + size[1]] / 255


def frost_blend(image, crop, image_weight, frost_weight):
    """Weighted sum of the image and a crop of frost."""
    return image_weight * image + frost_weight * crop


def fog(image, constants, rng):
    """Add a plasma cloud on the next power of two."""
    amount, decay = constants
    side = 2 ** math.ceil(math.log2(max(image.shape[:2])))
    return fog_from_plasma(image, plasma(side, decay, lambda shape: rng.uniform(-1, 1, shape)), amount)


def fog_from_plasma(image, cloud, amount):
    """Add `amount` of the cloud's top-left part and bring the sum back to the image's own maximum."""
    peak = image.max()
    return (image + amount * cloud[: image.shape[0], : image.shape[1], None]) * peak / (peak + amount)


def plasma(side: int, decay: float, draw: Callable[[tuple[int, int]], np.ndarray]) -> np.ndarray:
    """Diamond-square noise on a wrapped grid, scaled to [0, 1]; `draw(shape)` is uniform on [-1, 1].

    Per level it draws for the cell centres, then for the midpoints of horizontal, then of vertical edges.
    """
    grid = np.zeros((side, side))
    step, wibble = side, 100.0
    while step > 1:
        half = step // 2
        corners = grid[::step, ::step]
        jitter = [wibble * wibble * draw(corners.shape) for _ in range(3)]
        below = np.roll(corners, -1, axis=0)
        right = np.roll(corners, -1, axis=1)
        centres = (corners + below + right + np.roll(below, -1, axis=1)) / 4 + jitter[0]
        grid[half::step, half::step] = centres
        grid[::step, half::step] = (corners + right + centres + np.roll(centres, 1, axis=0)) / 4 + jitter[1]
        grid[half::step, ::step] = (corners + below + centres + np.roll(centres, 1, axis=1)) / 4 + jitter[2]
        step, wibble = half, wibble / decay
    return (grid - grid.min()) / np.ptp(grid)


def spatter(image, constants, rng):
    """Drops of water, or of mud."""
    return spatter_from_field(image, rng.normal(*constants[:2], image.shape[:2]), constants)


def spatter_from_field(image, field, constants):
    """Spatter from a drawn field (H, W); for mud, `strength` is the deviation that smooths the mask."""
    _, _, sigma, threshold, strength, mud = constants
    liquid = ndimage.gaussian_filter(field, sigma, mode="nearest", truncate=4)
    liquid = np.where(liquid < threshold, 0, liquid)
    if mud:
        mask = (liquid > threshold).astype(float)
        mask = ndimage.gaussian_filter(mask, strength, mode="nearest", truncate=4)
        mask = np.where(mask < 0.8, 0, mask)[..., None]
        return image * (1 - mask) + mask * np.array([63, 42, 20]) / 255
    relief = water_relief(quantise(liquid))
    mask = strength * relief / max(relief.max(), 1e-12)
    return image + mask[..., None] * np.array([175, 238, 238]) / 255


def water_relief(liquid):
    """The lighting of water drops: shading by distance from the edges of the uint8 liquid layer."""
    distance = np.minimum(chamfer_distance(canny(liquid, 50, 150)), 20)
    distance = np.floor(ndimage.uniform_filter(distance, 3, mode="mirror") + 1e-6).astype(np.uint8)
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = ndimage.correlate(equalise(distance).astype(int), kernel, mode="mirror").clip(0, 255)
    return np.rint(ndimage.uniform_filter(relief.astype(float), 3, mode="mirror")) * liquid


def canny(image_uint8, low, high):
    """Edges of a gray image: Sobel, L1 magnitude, thinning along the gradient, hysteresis."""
    gray = image_uint8.astype(int)
    gx, gy = (ndimage.sobel(gray, axis=axis, mode="nearest") for axis in (1, 0))
    magnitude = np.abs(gx) + np.abs(gy)
    padded = np.pad(magnitude, 1)
    candidate = np.zeros(gray.shape, bool)
    for h, w in np.argwhere(magnitude > low):
        here, x, y = magnitude[h, w], abs(gx[h, w]), abs(gy[h, w])
        block = padded[h : h + 3, w : w + 3]
        if y < x * math.tan(math.pi / 8):
            candidate[h, w] = here > block[1, 0] and here >= block[1, 2]
        elif y > x * math.tan(3 * math.pi / 8):
            candidate[h, w] = here > block[0, 1] and here >= block[2, 1]
        else:
            sign = -1 if gx[h, w] * gy[h, w] < 0 else 1
            candidate[h, w] = here > block[0, 1 - sign] and here > block[2, 1 + sign]
    labels, count = ndimage.label(candidate, np.ones((3, 3)))
    strong = np.zeros(count + 1, bool)
    strong[labels[candidate & (magnitude > high)]] = True
    return strong[labels]


def chamfer_distance(edges):
    """Distance to the nearest edge by steps of 1, 1.4 (diagonal) and 2.1969 (knight's move)."""
    height, width = edges.shape
    distance = np.where(edges, 0, 1e4)
    moves = [(h, w) for h in range(-2, 3) for w in range(-2, 3) if math.gcd(h, w) == 1]
    while True:
        padded = np.pad(distance, 2, constant_values=1e4)
        shorter = distance
        for h, w in moves:
            cost = {1: 1.0, 2: 1.4, 5: 2.1969}[h * h + w * w]
            shorter = np.minimum(shorter, padded[2 + h : 2 + h + height, 2 + w : 2 + w + width] + cost)
        if np.array_equal(shorter, distance):
            return distance
        distance = shorter


def equalise(image_uint8):
    """Histogram equalisation that sends the darkest level present to 0 and the brightest to 255."""
    counts = np.bincount(image_uint8.ravel(), minlength=256)
    darkest = int(image_uint8.min())
    if counts[darkest] == image_uint8.size:
        return image_uint8
    above = np.cumsum(counts) - counts[darkest]
    levels = np.rint(above * (255 / (image_uint8.size - counts[darkest])))
    return levels.clip(0, 255).astype(np.uint8)[image_uint8]


# -------------------------------------------------------------------------------------------- digital


def change_hsv(image, s_factor, s_offset, v_offset):
    """S * factor + offset and V + offset, both clipped, by way of hue, saturation and value."""
    value, spread = image.max(axis=-1), np.ptp(image, axis=-1)
    saturation = spread / np.where(value > 0, value, 1)
    red, green, blue = np.moveaxis(image, -1, 0)
    towards = [green - blue, blue - red, red - green]  # hue in sixths of a turn, counted from each primary
    towards = [difference / np.where(spread > 0, spread, 1) for difference in towards]
    hue = np.select([blue == value, green == value], [4 + towards[2], 2 + towards[1]], towards[0])
    hue = np.where(spread > 0, hue / 6 % 1 * 6, 0)
    value = np.clip(value + v_offset, 0, 1)
    saturation = np.clip(saturation * s_factor + s_offset, 0, 1)
    sector = np.floor(hue).astype(int)
    low = value * (1 - saturation)
    falling = value * (1 - (hue - sector) * saturation)
    rising = value * (1 - (1 - hue + sector) * saturation)
    red_by_sector = [value, falling, low, low, rising, value]
    return np.stack([np.choose((sector - turn) % 6, red_by_sector) for turn in (0, 2, 4)], axis=-1)


def brightness(image, offset):
    """Add to the value of HSV."""
    return change_hsv(image, 1, 0, offset)


def saturate(image, constants):
    """Scale and shift the saturation of HSV."""
    return change_hsv(image, *constants, 0)


def contrast(image, factor):
    """Shrink towards the mean of each channel over the image."""
    mean = image.mean(axis=(0, 1))
    return (image - mean) * factor + mean


def jpeg_compression(image, quality):
    """Through Pillow's encoder and decoder, chroma at half resolution."""
    buffer = io.BytesIO()
    to_pillow(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)) / 255


def pixelate(image, scale):
    """Box-filter down and up again, rounding to whole levels after every pass as Pillow does."""
    picture = to_pillow(image)
    small = picture.resize([int(side * scale) for side in picture.size], Image.Resampling.BOX)
    return np.asarray(small.resize(picture.size, Image.Resampling.BOX)) / 255


def elastic_transform(image, constants, rng):
    """A random affine warp, then random smooth displacements."""
    alpha, sigma, reach = constants
    warped = affine_warp(image, rng.uniform(-reach, reach, (3, 2)))
    dx, dy = (alpha * smooth_field(rng.uniform(-1, 1, image.shape[:2]), sigma) for _ in range(2))
    return displace(warped, dx, dy)


def affine_warp(image, moves):
    """Move three points about the centre by `moves`, rows of (x, y), affinely; mirrored borders."""
    height, width = image.shape[:2]
    x, y, offset = width // 2, height // 2, min(height, width) // 3
    before = np.array([[x + offset, y + offset], [x + offset, y - offset], [x - offset, y - offset]], float)
    # Rows (x, y, 1) of a moved point times `back` give where it came from.
    back = np.linalg.solve(np.column_stack([before + moves, np.ones(3)]), before)
    rows, columns = np.mgrid[:height, :width]
    source = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ back
    return sample(image, source[..., 1], source[..., 0], "mirror")


def smooth_field(field, sigma):
    """Gaussian smoothing cut at 3 sigma, edges repeated; no smoothing at sigma 0."""
    return ndimage.gaussian_filter(field, sigma, mode="reflect", truncate=3) if sigma > 0 else field


def displace(image, dx, dy):
    """Read each pixel from (x + dx, y + dy), linearly, edges repeated."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return sample(image, rows + dy, columns + dx, "reflect")


def sample(image, rows, columns, mode):
    """Linear interpolation of every channel; `mode` is SciPy's name of the border."""
    read = [ndimage.map_coordinates(image[..., k], (rows, columns), order=1, mode=mode) for k in range(3)]
    return np.stack(read, axis=-1)


RANDOM = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur_at_random_angle,
    "snow": snow,
    "fog": fog,
    "elastic_transform": elastic_transform,
    "speckle_noise": speckle_noise,
    "spatter": spatter,
}
DETERMINISTIC = {
    "defocus_blur": defocus_blur,
    "zoom_blur": zoom_blur,
    "brightness": brightness,
    "contrast": contrast,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "gaussian_blur": gaussian_blur,
    "saturate": saturate,
}
