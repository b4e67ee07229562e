"""Quality and diversity of a model's samples at several guidance strengths."""
