"""Harden: training against shifts, by methods."""
