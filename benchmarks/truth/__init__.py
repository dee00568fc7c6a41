"""The truth bench: many small posteriors with exact answers, against which whole campaigns are held."""

import os

# Before NumPy: matrices of this size are slower on several threads, many times so while another process computes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
