"""What is done to one machine: start and stop, apply a configuration with its checks and its way back, remove."""
