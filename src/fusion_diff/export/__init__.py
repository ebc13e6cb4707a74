"""Export: a model with its enrolled references as one graph, for machines without torch."""
