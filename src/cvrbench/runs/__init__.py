"""One run: planned, computed, recorded, kept in its folder, read again, reproduced."""
