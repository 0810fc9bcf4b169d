"""From an input to sealed shards: the run as asked for, what is left out, packing, cutting, plan parts, dispatch."""
