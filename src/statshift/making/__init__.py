"""Make: data sets and weights written to the disk."""
