"""From a folder of pictures to a small, fast, proven classifier that runs anywhere."""

__version__ = "0.1.0"
