"""What test_parallel.py runs on several processes."""
