"""What can be named where similarity is measured, known without torch."""

PERTURBATIONS = ("gaussian", "uniform", "fgsm", "pgd")
