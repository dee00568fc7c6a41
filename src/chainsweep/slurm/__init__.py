"""A campaign on a Slurm cluster: scripts as text, submissions, the queue beside the files."""
