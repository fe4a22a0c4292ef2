"""Files in and out of a labelling project: what other tools wrote, and what the next stage reads."""
