"""Tasks over MPI ranks."""
