"""From the phases of a specimen to its end-members: one module for each technique."""
