"""scanwise: the daemon, its client and its command line."""
