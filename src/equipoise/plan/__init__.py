"""What a stage will take, before anything loads: memory by role and phase, tokens, time and money."""
