"""What `moonwake doctor` looks at: facts are read first, then each check judges them alone."""
