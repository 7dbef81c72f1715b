"""Pages served from one's own machine: who may call them, and how they are served.

Knows nothing of what a page is for. Needs the extra `label`.
"""
