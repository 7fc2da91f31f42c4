"""A discussion, "Why mini-batches at all?": its claims Q1 to Q17, those that are built, as studies."""
