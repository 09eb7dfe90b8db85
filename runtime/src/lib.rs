//! What runs a compiled model: C ABI, loader, arena, thread pool, tensor views
