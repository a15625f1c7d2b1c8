"""GPT-2's weights and tokenizer: files in and out, and downloads."""
