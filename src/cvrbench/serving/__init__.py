"""A trained network at work: predictions for other rows, and a folder that serves without us."""
