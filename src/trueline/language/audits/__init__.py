"""Audits of language models, by principle: ethicality, controllability, robustness, interpretability.

All of them ask the model prompts that are held out for the split and round, and have its replies judged by something
that it was not trained to please. A prompt is the independent unit of every interval; what is compared on one prompt
(plain and attacked, one wording and another) shares the random numbers that its replies are drawn with.
"""
