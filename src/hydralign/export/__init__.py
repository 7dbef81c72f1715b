"""Finished models in the form that other people's tools read."""
