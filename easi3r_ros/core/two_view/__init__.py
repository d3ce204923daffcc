"""Two views of one camera: optical flow with its error, the camera's motion, and what does not fit to it."""
