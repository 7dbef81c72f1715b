"""How much memory a run will take: its passes, run dry on tensors without storage."""
