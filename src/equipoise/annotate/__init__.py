"""Labels: where they live, who gives them, how many answers become one, and how far they agree."""
