"""Page (2018), "How to train your ResNet", part 2, "Mini-batches": its experiments and claims as studies."""
