"""The GLUE bench: glue, model, training, run, then sweep and report, then speed and cli; a
stage imports only stages before it."""
