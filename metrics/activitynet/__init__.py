"""The official scores of ActivityNet, and the models' metrics that use them."""
