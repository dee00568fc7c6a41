"""The task graph, what each task does, and running it on this machine."""
