"""Files, models and data sets that lie elsewhere: in buckets, on the Hugging Face Hub, and in ir_datasets."""
