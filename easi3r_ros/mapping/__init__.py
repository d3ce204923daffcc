"""What becomes of results over time: the frame `map` with its axes and its metres. No torch, no ROS."""
