"""A judge as labeller: an LLM behind an endpoint, or reward and cost models, in the same tables as people."""
