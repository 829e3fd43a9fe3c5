"""Trained networks in use: load, predict, export, average, demonstrate."""
