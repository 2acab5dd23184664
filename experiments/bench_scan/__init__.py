"""Forward + backward of the compiled scan against our eager path and public kernels, float32, median ms."""
