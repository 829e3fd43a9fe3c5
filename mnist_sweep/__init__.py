"""Hyperparameter sweeps and an account of them, for convolutional networks on 28 × 28 images."""

__version__ = "0.1.0"
