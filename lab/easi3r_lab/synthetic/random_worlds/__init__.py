"""Random scenes by the batch: every random number of B scenes is one tensor, and no loop runs over scenes."""
