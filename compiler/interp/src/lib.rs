//! Reference evaluation of nn.*, quant.* and int.*
