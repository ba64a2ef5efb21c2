"""What `make proto` does to the code that protoc writes."""
