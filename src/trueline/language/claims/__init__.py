"""Claims of papers on language models, with the experiments that test them."""
