"""What waits in the machine's memory and visits the device: frozen and trained blocks, kept inputs."""
