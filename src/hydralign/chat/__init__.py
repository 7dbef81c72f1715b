"""Talking to policies: in the terminal, and on a page."""
