"""One micrograph judged: its evidence gathered, the verdict that follows, its regions, and its reasons in sentences."""
