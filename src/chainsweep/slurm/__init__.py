"""The use of a Slurm cluster: scripts as text, submissions, and the state of the queue next to the files."""
