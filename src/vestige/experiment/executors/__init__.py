"""Who works on a run's jobs: processes of this machine, or the nodes of a Ray cluster."""
