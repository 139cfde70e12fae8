"""What leaves a search: picks from the front, and the files of a picked network."""
