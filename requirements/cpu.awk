# Of requirements/export.txt: all but torch and torchvision, and what only PyTorch for CUDA needs.
/^[a-z]/ { kept = !/^(torch==|torchvision==|triton==|cuda-|nvidia-(cu|nccl|nv))/ }
kept
