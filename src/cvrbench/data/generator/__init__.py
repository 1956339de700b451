"""Raw files in Ali-CCP's exact format at any size, with planted effects and the true rates."""
