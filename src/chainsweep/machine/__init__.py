"""What a process finds on its machine: devices, environment, compiled programs."""
