"""From run records to tables and figures; reads, never trains, never imports torch."""

MARGIN = 0.001
"""Difference of AUC that matters where the user says nothing; the field publishes such gains."""
