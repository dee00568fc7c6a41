"""Arithmetic that engines, importance sampling and models share: loops, seeds, factors, random numbers."""
