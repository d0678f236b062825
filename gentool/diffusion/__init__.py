"""Gaussian diffusion for any network and any shape: closed forms, schedules, samplers."""
