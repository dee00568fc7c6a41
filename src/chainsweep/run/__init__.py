"""Tasks on this machine: worker processes, jobs, MPI ranks."""
