"""The machine that a process runs on: devices, environment, compiled programs."""
