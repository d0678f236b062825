"""gentool: generators that refine a whole output at once, step by step."""

__version__ = "0.1.0"
