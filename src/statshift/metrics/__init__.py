"""From a model's answers to figures, and how sure a figure is."""
