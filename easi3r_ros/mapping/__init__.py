"""What becomes of results over time: the frame `map` with its axes and its metres, what moves in it, what does not."""
