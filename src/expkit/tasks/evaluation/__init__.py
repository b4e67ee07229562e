"""How good a model's samples are, over guidance strengths."""
