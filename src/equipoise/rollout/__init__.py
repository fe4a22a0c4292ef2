"""From prompts to responses: sampling, scoring, serving and talking to a policy. Training is not here."""
