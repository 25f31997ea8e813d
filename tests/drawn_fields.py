"""Images, and the reference's corruptions from the very fields that the library drew."""

import math

import numpy as np
import torch

import reference_corruptions as reference
from statshift._core.randomness import Draws
from statshift.shifts.corruptions import corruption


def natural(count, height, width, seed=0):
    """(count, H, W, 3) of whole levels / 255 with the 1/frequency amplitudes of photographs, colours correlated."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    fields = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(count, 4, height, width))) / frequency, s=(height, width))
    fields = 0.5 * fields[:, :3] + fields[:, 3:]
    fields *= 0.22 / fields.std(axis=(1, 2, 3), keepdims=True)
    fields += rng.uniform(0.3, 0.7, (count, 1, 1, 1))
    return np.rint(255 * fields.clip(0, 1)).transpose(0, 2, 3, 1) / 255


def noisy(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)) / 255


def tensor(images):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3))).float()


def levels(images):
    """(B, H, W, 3) whole numbers from a quantised tensor, which must hold nothing else."""
    scaled = images.double().numpy().transpose(0, 2, 3, 1) * 255
    assert np.abs(scaled - scaled.round()).max(initial=0) < 1e-4
    return scaled.round()


class Fields(dict):
    """What the last chunk drew, by purpose: the first image's field, and in `batches` all images'; float64."""

    def __init__(self):
        self.batches = {}


def record(monkeypatch):
    """Return the `Fields` that corruptions fill from now on."""
    drawn = Fields()

    class Recording(Draws):
        def keep(self, purpose, field):
            drawn.batches[purpose] = field.numpy().astype(np.float64)
            drawn[purpose] = drawn.batches[purpose][0]
            return field

        def uniform(self, purpose, *shape, low=0.0, high=1.0):
            return self.keep(purpose, super().uniform(purpose, *shape, low=low, high=high))

        def normal(self, purpose, *shape):
            return self.keep(purpose, super().normal(purpose, *shape))

        def integers(self, purpose, *shape, low, high):
            return self.keep(purpose, super().integers(purpose, *shape, low=low, high=high))

    monkeypatch.setattr(corruption, "Draws", Recording)
    return drawn


def gaussian_noise_from(fields, image, sigma):
    return image + sigma * fields["noise"].transpose(1, 2, 0)


def speckle_noise_from(fields, image, sigma):
    return image + image * sigma * fields["noise"].transpose(1, 2, 0)


def impulse_noise_from(fields, image, amount):
    field = fields["noise"].transpose(1, 2, 0)
    return reference.impulse_replace(image, field < amount, field < amount / 2)


def motion_blur_from(fields, image, constants):
    return reference.motion_blur(image, math.degrees(fields["angle"]), *constants)


def glass_blur_from(fields, image, constants):
    sigma, delta, iterations = constants
    right, down = np.stack([fields[f"offsets {step}"] for step in range(iterations)], axis=1).astype(int)
    blurred = reference.quantise(reference.gaussian_blur(image, sigma))
    return reference.gaussian_blur(reference.glass_copy(blurred, right, down, delta) / 255, sigma)


def snow_from(fields, image, constants):
    """The library draws only the part of the flakes that the zoom will show: the centre."""
    flakes = fields["flakes"][0]
    (height, width), (rows, columns) = image.shape[:2], flakes.shape
    top, left = (height - rows) // 2, (width - columns) // 2
    field = np.zeros((height, width))
    field[top : top + rows, left : left + columns] = constants[0] + constants[1] * flakes
    return reference.snow_from_field(image, field, math.degrees(fields["angle"]), constants)


def plasma_order(field):
    """The field's values in the order in which the reference asks for them."""
    step = len(field)
    while step > 1:
        half = step // 2
        yield from (field[half::step, half::step], field[::step, half::step], field[half::step, ::step])
        step = half


def fog_from(fields, image, constants):
    order = plasma_order(fields["cloud"])
    cloud = reference.plasma(len(fields["cloud"]), constants[1], lambda shape: next(order))
    return reference.fog_from_plasma(image, cloud, constants[0])


def elastic_transform_from(fields, image, constants):
    alpha, sigma, _ = constants
    warped = reference.affine_warp(image, fields["affine"])
    if alpha == 0:
        return warped
    return reference.displace(warped, *(alpha * reference.smooth_field(field, sigma) for field in fields["fields"]))


def spatter_from(fields, image, constants):
    return reference.spatter_from_field(image, constants[0] + constants[1] * fields["liquid"][0], constants)


SAME_FIELDS = {
    "gaussian_noise": gaussian_noise_from,
    "impulse_noise": impulse_noise_from,
    "glass_blur": glass_blur_from,
    "motion_blur": motion_blur_from,
    "snow": snow_from,
    "fog": fog_from,
    "elastic_transform": elastic_transform_from,
    "speckle_noise": speckle_noise_from,
}
