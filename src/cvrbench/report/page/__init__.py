"""The report as one HTML file: tables, figures, warnings, and what is behind each row."""
