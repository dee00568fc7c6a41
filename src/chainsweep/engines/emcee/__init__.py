"""The ensemble sampler."""
