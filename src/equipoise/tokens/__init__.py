"""The only door from text to tensors: templates, batches, collation."""
