"""The device half of Headland: what cloud and device share, and what only a device does."""

__version__ = "0.1.0"
