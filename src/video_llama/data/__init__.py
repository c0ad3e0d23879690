"""Training data: readers of published formats, and a synthetic world."""
