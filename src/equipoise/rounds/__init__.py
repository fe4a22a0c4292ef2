"""Several stages, one plan: rounds of Safe RLHF from a recipe, each finished piece kept."""
