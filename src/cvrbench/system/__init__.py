"""What lies between cvrbench and the machine: files and locks, cores and memory, random streams."""
