"""Mask sets (which connections each task keeps) and the searches that find them."""
