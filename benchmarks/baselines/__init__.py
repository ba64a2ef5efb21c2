"""What users run today, to compare with."""
