"""How much memory a run has taken."""

import resource
import sys

import torch


def peak_memory_gb() -> float:
    """Return the peak so far in GB: reserved on the accelerator, or resident without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
