"""Optuna tunes a strategy: studies, their trials, and the workers that run them."""
