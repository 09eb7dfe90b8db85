//! The numbers of a vector machine.

/// What a kernel has to know of a machine in order to choose its register tile and the layout of its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VectorShape {
    /// 32-bit lanes of one vector.
    pub lanes: usize,
    /// Vector registers.
    pub registers: usize,
    /// Most accumulators of a tile: what [`Machine::requantize`](super::Machine::requantize) leaves itself to work with.
    pub accumulators: usize,
    /// The same for tiles of fewer than [`VectorShape::max_vectors`].
    pub accumulators_of_fewer: usize,
    /// Bytes of a packed weight, and of an activation when it is multiplied: see [`VectorShape::dot_depth`].
    pub weight_bytes: usize,
    /// Registers that a step needs beside accumulators and weights: for a broadcast, and for products.
    pub scratch_registers: usize,
    /// Whether the weights of a step have registers of their own beside the accumulators.
    pub weights_in_registers: bool,
    /// Dots that must be independent of each other to keep the multipliers busy: latency times dots a cycle.
    pub independent_dots: usize,
    /// Time of one broadcast, in that of a dot; broadcasts keep other ports busy than dots do.
    pub broadcast: usize,
    /// Time to requantize and store one vector of accumulators, in that of a dot, where a pixel has one to four of them.
    pub epilogue: [usize; 4],
    /// Most vectors side by side in a tile: what one group of [`Machine::requantize`](super::Machine::requantize) narrows at once.
    pub max_vectors: usize,
    /// Steps of the reduction in one loop body.
    pub unroll: usize,
    /// Whether multipliers are stored twice, see [`VectorShape::multiplier_copies`].
    pub paired_multipliers: bool,
    /// Time of a dot in thirds of a cycle: estimates of two shapes are compared in it.
    pub dot_time: usize,
    /// Most steps whose products are summed in 16 bits; 0 where every dot sums in 32.
    pub max_i16_steps: usize,
    /// Whether a step is a fast inner product ([`Machine::fast_dot`](super::Machine::fast_dot)) of activations that are 16-bit numbers in memory.
    pub fast_inner: bool,
}

impl VectorShape {
    /// AVX-512 with VNNI: Ice Lake, Sapphire Rapids (two dots a cycle), Zen 4 and later.
    pub const AVX512: VectorShape = VectorShape {
        lanes: 16,
        registers: 32,
        accumulators: 28,
        accumulators_of_fewer: 28,
        weight_bytes: 1,
        scratch_registers: 1,
        weights_in_registers: true,
        independent_dots: 10,
        broadcast: 1,
        epilogue: [8, 8, 8, 6],
        max_vectors: 4,
        unroll: 8,
        paired_multipliers: true,
        dot_time: 3,
        max_i16_steps: 0,
        fast_inner: false,
    };

    /// AVX2. A dot is a multiplication and an addition, of which only the additions wait for each other. Weights are in
    /// registers as far as these reach.
    pub const AVX2: VectorShape = VectorShape {
        lanes: 8,
        registers: 16,
        accumulators: 12,
        accumulators_of_fewer: 12,
        weight_bytes: 2,
        scratch_registers: 2,
        weights_in_registers: false,
        independent_dots: 2,
        broadcast: 1,
        epilogue: [8, 8, 9, 6],
        max_vectors: 4,
        unroll: 16,
        paired_multipliers: true,
        dot_time: 2,
        max_i16_steps: 0,
        fast_inner: false,
    };

    /// AVX-VNNI: Alder Lake and later (two dots a cycle, each five cycles long), Zen 5.
    pub const AVX_VNNI: VectorShape = VectorShape {
        lanes: 8,
        registers: 16,
        accumulators: 12,
        accumulators_of_fewer: 12,
        weight_bytes: 1,
        scratch_registers: 1,
        weights_in_registers: true,
        independent_dots: 10,
        broadcast: 1,
        epilogue: [8, 8, 9, 6],
        max_vectors: 4,
        unroll: 8,
        paired_multipliers: true,
        dot_time: 2,
        max_i16_steps: 0,
        fast_inner: false,
    };

    /// AVX2 with products of bytes that are summed in 16 bits: what was an addition to 32 bits is one to 16, on twice the products.
    pub const AVX2_I16_SUMS: VectorShape =
        VectorShape { weight_bytes: 1, weights_in_registers: true, max_i16_steps: 16, ..VectorShape::AVX2 };

    /// AVX2 with fast inner products: a multiplication and three additions take the place of two of each, and keep the multipliers half as busy. A step
    /// has two vectors of weights, two broadcasts and two sums, all in registers.
    pub const AVX2_FAST_INNER: VectorShape = VectorShape {
        accumulators: 8,
        accumulators_of_fewer: 8,
        scratch_registers: 4,
        weights_in_registers: true,
        epilogue: [6, 6, 6, 4],
        max_vectors: 2,
        unroll: 8,
        dot_time: 3,
        fast_inner: true,
        ..VectorShape::AVX2
    };

    /// AVX-512 BW without VNNI, likewise. Where vectors have 512 bits, two ports of three compute.
    pub const AVX512_I16_SUMS: VectorShape = VectorShape {
        registers: 31,
        accumulators: 27,
        accumulators_of_fewer: 27,
        scratch_registers: 2,
        independent_dots: 2,
        unroll: 16,
        max_i16_steps: 16,
        ..VectorShape::AVX512
    };

    /// Cranelift's 128-bit vectors. A broadcast passes through a general register there, and a longer loop body spills:
    /// the values that a block passes on are computed one after the other, each through all steps.
    pub const CLIF: VectorShape = VectorShape {
        lanes: 4,
        registers: 16,
        accumulators: 12,
        accumulators_of_fewer: 12,
        weight_bytes: 1,
        scratch_registers: 1,
        weights_in_registers: true,
        independent_dots: 10,
        broadcast: 4,
        epilogue: [8, 8, 8, 6],
        max_vectors: 4,
        unroll: 1,
        paired_multipliers: false,
        dot_time: 2,
        max_i16_steps: 0,
        fast_inner: false,
    };

    /// Activations of a pixel that one dot takes, and weights of a lane: four bytes or two 16-bit numbers; four of these in a fast inner product.
    pub const fn dot_depth(&self) -> usize {
        4 / self.weight_bytes * self.factors()
    }

    /// Vectors that a factor of a step is made of.
    pub const fn factors(&self) -> usize {
        if self.fast_inner { 2 } else { 1 }
    }

    /// Bytes of an activation in memory.
    pub const fn activation_bytes(&self) -> usize {
        if self.fast_inner { 2 } else { 1 }
    }

    /// Most accumulators of a tile with `vectors` side by side.
    pub const fn most_accumulators(&self, vectors: usize) -> usize {
        let weights = if self.weights_in_registers { vectors * self.factors() } else { 0 };
        let left = self.registers - self.scratch_registers - weights;
        let most = if vectors == self.max_vectors { self.accumulators } else { self.accumulators_of_fewer };
        if left < most { left } else { most }
    }

    /// Most pixels of a tile with `vectors` side by side.
    pub const fn max_rows(&self, vectors: usize) -> usize {
        self.most_accumulators(vectors) / vectors
    }

    /// Vectors of multipliers stored for each vector of channels: 1, or 2 where 32-bit products are formed from the even
    /// lanes only and the odd lanes are wanted a second time, moved down by one.
    pub const fn multiplier_copies(&self) -> usize {
        if self.paired_multipliers { 2 } else { 1 }
    }

    /// Multipliers of whole vectors as [`VectorShape::multiplier_copies`] says.
    pub fn pair_multipliers(&self, packed: &[i32]) -> Vec<i32> {
        if !self.paired_multipliers {
            return packed.to_vec();
        }
        let odd = |pair: &[i32]| [pair[1], 0];
        let vectors = packed.chunks(self.lanes);
        vectors.flat_map(|vector| vector.iter().copied().chain(vector.chunks(2).flat_map(odd))).collect()
    }

    /// The channel, counted from the first of `vectors` side by side, that lane `lane` of vector `vector` accumulates.
    ///
    /// ```text
    /// narrowed:  4 * (vectors * (lane / 4) + vector) + lane % 4       raw:  lanes * vector + lane
    /// ```
    /// Narrowing instructions work inside 128-bit parts and take four lanes from each source in turn; with the columns
    /// of the weights in this order their result is in natural order.
    pub const fn channel(&self, vectors: usize, vector: usize, lane: usize, narrowed: bool) -> usize {
        if narrowed { 4 * (vectors * (lane / 4) + vector) + lane % 4 } else { self.lanes * vector + lane }
    }
}
