"""A report as one HTML file: the terminal's tables, figures, warnings, and what is behind them."""
