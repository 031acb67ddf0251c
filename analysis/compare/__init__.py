"""Many runs compared: the report, the tables, the results."""
