"""What is optimised: one LightningModule per file, its hyperparameters at the top.

A stage says as class attributes what it is made of, and `build` gives it that:

- `settings`: the dataclass of its hyperparameters, checked before torch is imported;
- `records`: the kinds of records it wants, the one that it trains on first;
- `inputs`: the artifacts it starts from, by name, with the stage that leaves them;
- `roles`: the networks it wants, by name;
- `product`: the role that becomes its artifact;
- `headline`: the figure that a sweep optimises.

It leaves its final figures in `figures`.
"""
