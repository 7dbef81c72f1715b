"""What watches a run without changing its mathematics."""
