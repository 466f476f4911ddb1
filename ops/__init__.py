"""What an operator types: the command line, and the local stack it can run."""
