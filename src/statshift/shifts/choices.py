"""The attacks that can be named, known without torch."""

ATTACKS = ("fgsm", "pgd-linf", "pgd-l2", "cw-linf", "cw-l2", "autoattack-linf", "autoattack-l2")
STEPPED = ("pgd-linf", "pgd-l2", "cw-linf", "cw-l2")
