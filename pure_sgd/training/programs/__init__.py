"""Programs of tensors, which know of no step and no state: what a call came to, and running it again fast."""
