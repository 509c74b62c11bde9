"""perps-bot: a small, synchronous bot that trades perpetual futures with its owner's money."""

__version__ = "0.1.0"
