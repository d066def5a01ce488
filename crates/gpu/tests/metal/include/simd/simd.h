// Included by what `naga` writes; our kernels need nothing of it.
