"""The version of this package, for all floors."""

__version__ = "0.1.0"
