"""Training: stages, rates and data order."""
