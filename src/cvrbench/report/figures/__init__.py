"""Figures from records and prepared data; the only package that imports matplotlib."""
