"""Equipoise: Safe RLHF for any Hugging Face causal language model.

Start at `records` (what exists), then `algos` (what is computed), then `train.ppo_lag` (when).
"""

__version__ = "0.1.0"
