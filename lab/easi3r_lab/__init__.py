"""The laboratory of easi3r_ros: it makes, measures and teaches. The product never imports it."""

__version__ = "0.1.0"  # that of easi3r_ros
