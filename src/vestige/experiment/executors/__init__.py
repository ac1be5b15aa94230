"""Who works on an experiment's stages: processes of this machine, or a Ray cluster."""
