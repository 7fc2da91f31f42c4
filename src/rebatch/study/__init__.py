"""A question with arms and seeds: plan -> runs -> engine -> store -> verdicts."""
