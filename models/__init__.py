"""The models; `models.registry` lists them all."""
