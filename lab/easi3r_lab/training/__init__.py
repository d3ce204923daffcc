"""Training of the embedded network `tiny` on rendered scenes alone (docs/tiny.md)."""
