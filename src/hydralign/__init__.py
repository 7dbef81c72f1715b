"""hydralign: RLHF on one consumer GPU. Hydra assembles it, PyTorch Lightning runs it."""

__version__ = "0.1.0"
