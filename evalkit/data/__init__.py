"""Videos, data sets, rendered scenes and dialled defects."""
