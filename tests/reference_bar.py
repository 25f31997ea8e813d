"""The corruptions of C-bar in plain NumPy and SciPy, an image at a time, written from the paper's formulas.

A function takes an image (N,N,3) of levels in [0,255], the level of the severity and the numbers that are drawn, by
name, and returns float64 values that `stored` makes 8 bits. `AUTHORS` draws these numbers as the authors' code does.
"""

import math

import numpy as np
from scipy import ndimage


def stored(values):
    return values.clip(0, 255).astype(np.uint8)


def grid(image):
    return np.meshgrid(*(np.arange(length, dtype=float) for length in image.shape[:2]), indexing="ij")


def bilinear(image, y, x):
    """Read at (y, x); what lies outside counts as black."""
    height, width = image.shape[:2]
    low_y, low_x = np.floor(y).astype(int), np.floor(x).astype(int)
    total = np.zeros(image.shape)
    for down in (0, 1):
        for across in (0, 1):
            row, column = low_y + down, low_x + across
            weight = (1 - np.abs(y - row)) * (1 - np.abs(x - column))
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            total += (weight * inside)[..., None] * image[row.clip(0, height - 1), column.clip(0, width - 1)]
    return total


def spectral(shape, phases, power):
    """Noise of unit deviation; `phases` are those of the whole plane, `power` is a function of the distance."""
    y, x = np.meshgrid(*(np.arange(length) - length / 2 for length in shape), indexing="ij")
    plane = power(np.hypot(y / shape[0], x / shape[1]) * min(shape)) * np.exp(1j * phases)
    noise = np.fft.ifft2(np.roll(plane, (shape[0] // 2, shape[1] // 2), (0, 1))).real
    return noise / noise.std()


def blue_noise_sample(image, level, phases):
    noise = spectral(image.shape[:2], phases[0], lambda distance: distance)
    return image * (noise > 0.3 * level - 2.5)[..., None]


def brownish_noise(image, level, phases):
    noise = [spectral(image.shape[:2], one, lambda distance: 1 / (distance**2 + 1)) for one in phases]
    return image + 6.4 * level * np.stack(noise, axis=-1)


def single_frequency_greyscale(image, level, across, down, phase):
    y, x = grid(image)
    return image + 19.6 * level * np.sin(x * across + y * down + phase)[..., None]


def cocentric_sine_waves(image, level, row, column, frequency, amplitude, width):
    y, x = grid(image)
    angle = np.arctan2(x - column, y - row) * frequency
    distance = np.hypot(x - column, y - row) + np.sin(angle) * amplitude
    return image + 12.8 * level * (distance % width / width - 0.5)[..., None]


def plasma_noise(image, level, time, iterations, sharpness, scale):
    y, x = grid(image)
    x, y = x / scale, y / scale
    frequency, slowness, strength = 1.0, 1.0, 1.0
    for _ in range(iterations):
        first = np.cos(y * frequency + time / slowness) / strength
        second = np.sin(x * frequency + time / slowness) / strength
        x, y = x + first - 0.3 * second, y + second + 0.3 * first
        frequency, slowness, strength = frequency * 1.93, slowness * 1.15, strength * (2.25 - sharpness)
    noise = np.stack([np.sin(x - time), np.sin((x + y + np.sin(time)) / 2), np.sin(y + time)], axis=-1)
    return (1 - 6.4 * level / 255) * image + 6.4 * level * noise


def perlin_noise(image, level, gradient):
    """`gradient` tells the unit vectors (..., 2) of corners (row, column)."""
    y, x = grid(image)
    spacing = min(image.shape[:2]) / 7
    total = np.zeros(image.shape[:2])
    for octave in (1, 2, 4, 8, 16):
        row, column = y * octave / spacing, x * octave / spacing
        low_row, low_column = row.astype(int), column.astype(int)
        noise = np.zeros(image.shape[:2])
        for down in (0, 1):
            for across in (0, 1):
                far_row, far_column = row - low_row - down, column - low_column - across
                vector = gradient(low_row + down, low_column + across)
                smooth = [1 - abs(far) ** 2 * (3 - 2 * abs(far)) for far in (far_row, far_column)]
                noise += smooth[0] * smooth[1] * (far_row * vector[..., 0] + far_column * vector[..., 1])
        total += 1.5 * np.abs(noise) / octave
    cloud = (0.5 * total + 0.5).clip(0, 1)
    return (1 - 0.05 * level) * image + 255 * 0.05 * level * cloud[..., None]


def glow(image, centre, lengths, power):
    y, x = grid(image)
    y, x = y - centre[0], x - centre[1]
    turn = (np.arctan2(x, y) + np.pi) / (2 * np.pi) * len(lengths)
    ray = turn.astype(int)
    between = turn - ray
    this, following = lengths[ray % len(lengths)], lengths[(ray + 1) % len(lengths)]
    length = this + between * (following - this)
    strength = (length**2 / (y**2 + x**2 + 1e-4)) ** power
    return (strength * (1 - (between - 0.5) ** 2)).clip(0, 1)[..., None]


def sparkles(image, level, centres, lengths):
    for centre, rays in zip(centres, lengths, strict=True):
        image = image + glow(image, centre, np.maximum(rays, 1), 1) * (255 - image)
    return image


def inverse_sparkles(image, level, centre, lengths):
    return 255 + glow(image, centre, lengths, 0.13 * level) * (image - 255)


def checkerboard_cutout(image, level, angle, scale, chosen):
    """`chosen` tells of squares by whole numbers, which fall towards 0, whether one is grey."""
    y, x = grid(image)
    down = (np.cos(angle) * y + np.sin(angle) * x) / scale
    across = (np.cos(angle) * x - np.sin(angle) * y) / scale
    black = np.floor(down % 2) == np.floor(across % 2)
    return np.where((black & chosen(down.astype(int), across.astype(int)))[..., None], 128, image)


def line_pixels(row, column, last_row, last_column):
    """Zingl's walk of a smooth line, in whole numbers: rows, columns and strengths in the order met."""
    wide, high = abs(column - last_column), abs(row - last_row)
    step_column, step_row = 1 if column < last_column else -1, 1 if row < last_row else -1
    error, length = wide - high, math.hypot(wide, high)
    while True:
        yield row, column, 1 - abs(error - wide + high) / length
        before, here = error, column
        if 2 * before >= -wide:
            if column == last_column:
                return
            if before + high < length:
                yield row + step_row, column, 1 - abs(before + high) / length
            error, column = error - high, column + step_column
        if 2 * before <= high:
            if row == last_row:
                return
            if wide - before < length:
                yield row, here + step_column, 1 - abs(wide - before) / length
            error, row = error + wide, row + step_row


def lines(image, level, middles, angles):
    side = min(image.shape[:2])
    canvas = image.astype(np.uint8)
    for (row, column), angle in zip(middles, angles, strict=True):
        down, across = side * np.cos(angle), side * np.sin(angle)
        ends = (int(row - down), int(column - across), int(row + down), int(column + across))
        for y, x, strength in line_pixels(*ends):
            if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                canvas[y, x] = (1 - strength) * canvas[y, x].astype(np.float32) + strength * 128
    return canvas.astype(float)


def ripple(image, level, wavelengths, phases):
    amplitude = 0.0025 * level * min(image.shape[:2])
    moved = [
        axis + amplitude * np.sin(2 * np.pi * axis / wave + phase)
        for axis, wave, phase in zip(grid(image), wavelengths, phases, strict=True)
    ]
    return bilinear(image, *moved)


def pinch_and_twirl(image, level, ways):
    """`ways` holds 1 or -1 by cells, down and across."""
    side = min(image.shape[:2])
    cell = side // (3 if side < 64 else 5)
    y, x = grid(image)
    moved_y, moved_x = y.copy(), x.copy()
    for row in range(ways.shape[0]):
        for column in range(ways.shape[1]):
            here = (slice(row * cell, (row + 1) * cell), slice(column * cell, (column + 1) * cell))
            centre = (row * cell + cell / 2, column * cell + cell / 2)
            down, across = y[here] - centre[0], x[here] - centre[1]
            distance = np.hypot(down, across) / (cell / 2)
            with np.errstate(divide="ignore", invalid="ignore"):
                pinch = np.sin(np.pi / 2 * distance) ** -(0.04 * level + 0.1)
                turn = ways[row, column] * level * np.pi / 20 * (1 - distance) ** 2
                new_y = centre[0] + pinch * (down * np.cos(turn) - across * np.sin(turn))
                new_x = centre[1] + pinch * (down * np.sin(turn) + across * np.cos(turn))
            within = (distance <= 1) & (distance > 0)
            moved_y[here] = np.where(within, new_y, y[here])
            moved_x[here] = np.where(within, new_x, x[here])
    return bilinear(image, moved_y, moved_x)


def caustics(shape, time, size):
    y, x = np.meshgrid(*(np.arange(length) / size % 1 * 2 * np.pi - 250 for length in shape), indexing="ij")
    moved_y, moved_x, total = y, x, 1.0
    for turn in range(1, 6):
        moment = time * (1 - 3.5 / turn)
        moved_y, moved_x = (
            y + np.cos(moment - moved_y) + np.sin(moment + moved_x),
            x + np.sin(moment - moved_x) + np.cos(moment + moved_y),
        )
        total = total + 1 / np.hypot(y * 0.005 / np.sin(moved_y + moment), x * 0.005 / np.cos(moved_x + moment))
    return np.minimum(np.abs(1.17 - (total / 5) ** 1.4) ** 8, 1)


def caustic_refraction(image, level, time, size):
    side = min(image.shape[:2])
    surface = np.pad(ndimage.gaussian_filter(caustics(image.shape[:2], time, size), side / 224), 1)
    down = (surface[2:, 1:-1] - surface[:-2, 1:-1]) * side / 224
    across = (surface[1:-1, 2:] - surface[1:-1, :-2]) * side / 224
    normal = np.stack([down, across, np.ones_like(down)]) / np.sqrt(down**2 + across**2 + 1)
    angle = np.arccos(normal[2])  # of the light, which falls straight, to the surface's normal
    bent = np.arcsin(np.sin(angle) / 4)
    sideways = np.hypot(normal[0], normal[1])
    with np.errstate(invalid="ignore"):
        along = normal[:2] * (np.cos(bent) - np.sin(bent) * normal[2] / sideways)
    moved = np.where(normal[2] >= 1 - 1e-3, 0, along) * 0.05 * level * side
    y, x = grid(image)
    return bilinear(image, y + moved[0], x + moved[1]) + (255 * 0.2 * level * (down - across))[..., None]


def transverse_chromatic_abberation(image, level, factors):
    out = image.copy()
    for channel, factor in enumerate(factors):
        zoomed = ndimage.zoom(image[..., channel].astype(np.uint8), factor, prefilter=False)
        top, left = ((zoomed.shape[axis] - image.shape[axis]) // 2 for axis in (0, 1))
        out[..., channel] = zoomed[top : top + image.shape[0], left : left + image.shape[1]]
    return out


def circular_motion_blur(image, level):
    shares = np.linspace(-1, 1, 21)
    weights = np.exp(-2 * shares**2)
    turned = [ndimage.rotate(image / 255, share * 1.5 * level, reshape=False) for share in shares]
    return 255 * np.tensordot(weights / weights.sum(), np.stack(turned), 1)


# ------------------------------------------------------------------- the numbers as the authors' code draws them


def _seeded(rng):
    return np.random.RandomState(rng.randint(0, 2**32, dtype=np.int64))


def _phases(rng, side, count):
    own = _seeded(rng)
    halves = [own.uniform(0, 2 * np.pi, (side, side // 2)) for _ in range(count)]
    return {"phases": [np.concatenate([half, half[::-1, ::-1]], axis=1) for half in halves]}


def _frequencies(rng, side, level):
    larger = rng.uniform(-np.pi, np.pi)
    smaller = rng.uniform(-abs(larger), abs(larger))
    across, down = np.array([larger, smaller])[rng.permutation(2)]
    return {"across": across, "down": down, "phase": rng.uniform(0, 2 * np.pi)}


def _rings(rng, side, level):
    column, row = rng.uniform(0, side, 2)
    drawn = {"row": row, "column": column, "frequency": rng.uniform(0, 10)}
    return drawn | {"amplitude": rng.uniform(0, side / 10), "width": rng.uniform(0, side / 10)}


def _plasma(rng, side, level):
    drawn = {"time": rng.uniform(0, 6 * np.pi), "iterations": rng.randint(4, 7), "sharpness": rng.uniform(0.5, 1)}
    return drawn | {"scale": rng.uniform(0.075, 0.2) * side}


def _gradients(rng, side, level):
    own, count = _seeded(rng), 256
    vectors = np.array([own.randint(0, 2**31, 2, dtype=np.int64) % (2 * count) - count for _ in range(2 * count + 2)])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    table = np.arange(2 * count + 2)
    for place in range(count - 1, -1, -1):
        other = own.randint(0, 2**31, dtype=np.int64) % count
        table[[place, other]] = table[[other, place]]
    table[count:] = table[: count + 2]
    vectors[count:] = vectors[: count + 2]
    return {"gradient": lambda row, column: vectors[table[table[row % count] + column % count]]}


def _points(rng, side, level):
    centres, radius = rng.uniform(0, side, (5, 2)), 0.01 * level * side
    own, counts = _seeded(rng), rng.randint(50, 200, 5)
    return {"centres": centres, "lengths": [radius + radius / 4 * own.randn(count) for count in counts]}


def _point(rng, side, level):
    centre = rng.uniform(0.25, 0.75, 2) * side
    own, count = _seeded(rng), rng.randint(50, 200)
    return {"centre": centre, "lengths": side / 4 * (1 + own.randn(count) / 4)}


def _board(rng, side, level):
    angle, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.25) * side
    chosen = _seeded(rng).uniform(size=(int(4 * side // scale),) * 2) < level / 10
    return {"angle": angle, "scale": scale, "chosen": lambda down, across: chosen[down, across]}


def _lines(rng, side, level):
    angle, spread = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1)
    drawn = _seeded(rng).uniform(size=(int(level / 10 * side), 3))
    return {"middles": side * drawn[:, :2], "angles": angle + 2 * np.pi * spread * (drawn[:, 2] - 0.5)}


def _ways(rng, side, level):
    count = 3 if side < 64 else 5
    return {"ways": np.array([rng.choice([1, -1]) for _ in range(count**2)]).reshape(count, count).T}


def _ripples(rng, side, level):
    return {"wavelengths": rng.uniform(0.1, 0.3, 2) * side, "phases": rng.uniform(0, 2 * np.pi, 2)}


AUTHORS = {
    "blue_noise_sample": lambda rng, side, level: _phases(rng, side, 1),
    "plasma_noise": _plasma,
    "checkerboard_cutout": _board,
    "cocentric_sine_waves": _rings,
    "single_frequency_greyscale": _frequencies,
    "brownish_noise": lambda rng, side, level: _phases(rng, side, 3),
    "perlin_noise": _gradients,
    "inverse_sparkles": _point,
    "sparkles": _points,
    "caustic_refraction": lambda rng, side, level: {
        "time": rng.uniform(0.5, 2),
        "size": rng.uniform(0.75, 1.25) * side,
    },
    "pinch_and_twirl": _ways,
    "ripple": _ripples,
    "circular_motion_blur": lambda rng, side, level: {},
    "lines": _lines,
    "transverse_chromatic_abberation": lambda rng, side, level: {
        "factors": (1 + 0.025 * level * np.arange(3))[rng.permutation(3)]
    },
}


def as_authors(name, image, level, rng):
    """An image (N,N,3) of levels under a corruption, drawn from NumPy's legacy generator; uint8."""
    drawn = AUTHORS[name](rng, len(image), level)
    return stored(globals()[name](image.astype(float), level, **drawn))
