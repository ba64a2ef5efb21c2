"""What it takes to run the service elsewhere than on one machine."""
