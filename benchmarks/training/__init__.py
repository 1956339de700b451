"""Contenders of the training benchmark: ours, two peers, and the floor of the hardware."""
