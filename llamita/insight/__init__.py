"""What vectors have learnt: functions of matrices, tokenizers and models."""
