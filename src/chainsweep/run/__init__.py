"""The execution of tasks on this machine: worker processes, jobs, MPI ranks."""
