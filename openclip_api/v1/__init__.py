"""Version 1 of the API: messages and stubs of `openclip.v1`, written by `make proto`."""
