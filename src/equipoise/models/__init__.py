"""Networks by role: any causal language model as a policy, any backbone with a score head."""
