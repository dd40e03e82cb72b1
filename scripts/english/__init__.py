"""The English of mini-GLUE: dice, lexicon, grammar, and one module for each family of tasks."""
