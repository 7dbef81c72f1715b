"""What a run was like, as one page: drawn from what it wrote into its folder."""
