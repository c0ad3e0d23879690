"""The files of a model: published ones to ours and back, what a directory holds, loading."""

MODEL_FOLDER = "model"  # of a training run's output: where its model is
