"""statshift measures, adapts and hardens vision models against distribution shift."""
