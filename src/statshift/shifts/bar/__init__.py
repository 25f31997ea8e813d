"""The corruptions of ImageNet-C-bar and CIFAR-10-C-bar on batched tensors, addressed by seed and image index.

Reference: Mintun, Kirillov & Xie, "On Interaction Between Augmentations and Corruptions in Natural Corruption
Robustness", NeurIPS 2021, and the authors' scripts (facebookresearch/augmentation-corruption).
"""
