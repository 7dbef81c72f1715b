"""Sampling responses, and collecting all that one PPO step needs to know of them."""
