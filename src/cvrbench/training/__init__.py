"""The training loop, its optimisers, checkpoints and the prediction pass."""
