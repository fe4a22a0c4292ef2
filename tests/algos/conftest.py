"""Hypothesis: the same cases every time, and no deadline, for a machine that does other work besides."""

from hypothesis import settings

settings.register_profile("equipoise", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("equipoise")
