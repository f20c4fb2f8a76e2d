"""The demo: the networks of the seed documents, trained on real images beside their plain NumPy twins."""
