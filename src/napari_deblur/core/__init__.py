"""Images, parameters, runs, records and errors."""
