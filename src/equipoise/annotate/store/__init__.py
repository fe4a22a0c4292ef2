"""The labelling database: the only SQL on labels in this package."""
