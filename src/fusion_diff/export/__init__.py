"""Export: a model and its enrolled references as one graph, for machines without torch."""
