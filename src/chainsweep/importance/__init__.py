"""Adaptive importance sampling, mixtures and modes: what engines and verdicts share."""
