"""What is optimised: one LightningModule per file, its hyperparameters at the top.

The class `<Stage>` comes with a dataclass `<Stage>Settings` in the same file, which is checked
before torch is imported. Its fields include `batch_size` and `steps` (batches in the run), and for
each input a path that may be null. The class says what it is made of, and `build` gives it that:

- `settings`: that dataclass;
- `records`: the kinds of records it wants, the one that it trains on first (written out, not
  computed: it is read without importing the file);
- `inputs`: the artifacts it starts from, by name, with the stage that leaves them (likewise);
- `roles`: the networks it wants, by name;
- `product`: the role that becomes its artifact;
- `headline`: the figure that a sweep optimises.

An instance has `options` (its settings; `max_grad_norm` among them if Lightning optimises),
`policy` and `sampling` (for tables of sampled responses, scored by `scorer` if it has one),
`batch_plan(data)` (in words), and leaves its final figures in `figures` and, if it compares
responses, `samples`.
"""
