//! int.* graphs into machine code: plan, kernels, JIT, shared object
