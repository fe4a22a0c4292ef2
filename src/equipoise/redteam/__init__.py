"""A policy and a judge → prompts that break the policy."""
