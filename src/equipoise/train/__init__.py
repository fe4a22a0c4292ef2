"""Loops: data and models in, weights out. One algorithm, one file, one loop."""
