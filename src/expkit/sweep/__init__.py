"""Many runs of one command, as one batch where they may share it, and their sheets."""
