"""Networks: one file per architecture, and the weights."""
