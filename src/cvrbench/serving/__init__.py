"""A trained network on its way out: what can be left out, what that saves, and the files."""
