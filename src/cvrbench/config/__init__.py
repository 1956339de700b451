"""Configuration: yaml values checked against frozen dataclasses; hydra and pydantic live here."""
