"""The execution of tasks on the ranks of an MPI job."""
