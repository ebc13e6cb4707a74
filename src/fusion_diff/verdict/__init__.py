"""The verdict on one micrograph: its evidence, decision, regions and reasons."""
