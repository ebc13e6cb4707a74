"""The service: inspections, references, models and their records over HTTP, from one process."""
