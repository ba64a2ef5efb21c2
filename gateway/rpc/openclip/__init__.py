"""Code written from the proto by `make proto`."""
