"""Figures: what a checkpoint or a set of files is worth."""
