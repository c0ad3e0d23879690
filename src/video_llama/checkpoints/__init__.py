"""The files of a model: published ones to ours and back, what a directory holds, loading."""
