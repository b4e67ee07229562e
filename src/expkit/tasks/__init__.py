"""The tasks: what each command produces, and how its results are scored and displayed."""
