"""How the checkpoint `tiny` was made: a DUSt3R-architecture network, rendered scenes alone (lab/docs/tiny.md)."""
