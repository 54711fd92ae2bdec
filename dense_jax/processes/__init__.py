"""Several processes of one run, or of several: start-up, collectives, locks and signals."""
