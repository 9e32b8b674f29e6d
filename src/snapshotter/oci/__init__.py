"""OCI images as values: manifests, configurations, layers. Opens no file, asks no registry."""
