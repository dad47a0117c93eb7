"""What a GPU computes by a kernel of ours, because PyTorch's own take more passes over memory. Needs Triton."""
