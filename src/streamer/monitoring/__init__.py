"""What a run looks like from outside while it goes on, and when it is done."""
