"""Input lists: folders, inventories, manifests and items; slices of large objects."""
