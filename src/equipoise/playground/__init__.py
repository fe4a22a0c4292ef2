"""A whole offline world for Safe RLHF in readable English over a small vocabulary.

It supplies directories of the same kinds as real data (a model, demonstrations, prompts) and functions that a
recipe names by string (oracle, labellers). No other part of the package imports it.
"""
