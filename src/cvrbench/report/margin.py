"""The difference that matters; apart, since `cvrbench --help` tells it and loads nothing heavy."""

MARGIN = 0.001
"""Difference of AUC that matters where the user says nothing; the field publishes such gains."""
