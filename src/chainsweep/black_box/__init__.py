"""Calls of a user's own functions: guarded, timed, and noted."""
