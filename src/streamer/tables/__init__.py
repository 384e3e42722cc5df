"""What a run puts out: the contract of a table, and a folder or file for each."""
