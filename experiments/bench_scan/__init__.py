"""Forward + backward of the compiled scan against our eager path and against public kernels, float32, median ms."""
