"""The errors of AlexNet, which CE and mCE are in units of."""

ALEXNET: dict[str, dict[str, float]] = {
    "imagenet": {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    },
    "cifar10": {
        "gaussian_noise": 0.2584,
        "shot_noise": 0.25102,
        "impulse_noise": 0.30084,
        "defocus_blur": 0.30662,
        "glass_blur": 0.30328,
        "motion_blur": 0.37378,
        "zoom_blur": 0.34576,
        "snow": 0.30212,
        "frost": 0.32398,
        "fog": 0.37776,
        "brightness": 0.26932,
        "contrast": 0.51958,
        "elastic_transform": 0.3035,
        "pixelate": 0.25248,
        "jpeg_compression": 0.24516,
    },
    "cifar100": {
        "gaussian_noise": 0.61448,
        "shot_noise": 0.6007,
        "impulse_noise": 0.66594,
        "defocus_blur": 0.61368,
        "glass_blur": 0.61268,
        "motion_blur": 0.65894,
        "zoom_blur": 0.63438,
        "snow": 0.66192,
        "frost": 0.68484,
        "fog": 0.68874,
        "brightness": 0.62692,
        "contrast": 0.75924,
        "elastic_transform": 0.6183,
        "pixelate": 0.57462,
        "jpeg_compression": 0.58216,
    },
}
"""AlexNet's top-1 error under each common corruption, averaged over the five severities.

Reference: ImageNet, Hendrycks & Dietterich (ICLR 2019); CIFAR, the AlexNets of Benz et al. (WACV 2021).
"""

ALEXNET_CLEAN: dict[str, float] = {"imagenet": 0.43478}
"""AlexNet's top-1 error without corruption, where it is published."""
