"""From a trained run to what a model server loads: graphs, version folders, manifests."""
