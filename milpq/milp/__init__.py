"""Mixed-integer linear models: solver-neutral arrays, safe bounds, and the backends that solve them."""
