"""DUSt3R-architecture networks: layers and heads, checkpoints, generated weights, and the backbone over them."""
