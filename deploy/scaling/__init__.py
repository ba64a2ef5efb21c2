"""How many gateways and GPUs a load needs: the arithmetic, and a simulation to check it with."""
