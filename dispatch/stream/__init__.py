"""Out to subscribers: the hub wakes tails, and a tail is a cursor."""
