"""The mathematics: pure functions of tensors. Imports torch only.

Shapes: b batch, g group, p prompt, r response, t = p + r, v vocabulary, n any number of rows.
"""
