"""Trainings of networks of one structure as one program: same steps, same results, less time."""
