//! The order in which a microkernel reads its weights, biases and multipliers.
//!
//! ```text
//! weights      [panel][kernel row][segment][step of 4][vector][lane][4]      i8, or
//!              [panel][kernel row][segment][step of 2][vector][lane][2]      i16 ([`VectorShape::dot_depth`]), in some panels i8
//!                                                                              ([`Panel::weight_bytes`](super::Panel))
//! biases       [panel][vector][lane]                                         i32
//! multipliers  [panel][vector][copy][lane]                                   i32
//! ```
//! Panels are those of [`super::tiling`]; lane `l` of vector `v` is channel [`VectorShape::channel`] of its panel. What does
//! not exist is zero: lanes beyond the channels, bytes beyond the run. The second copy of multipliers, where the machine
//! wants one ([`VectorShape::multiplier_copies`]), holds those of lanes 1, 3, 5... in lanes 0, 2, 4...

use super::plan::Microkernel;

impl Microkernel {
    /// Channels in packed order: of each panel, vector and lane, the channel of the block or nothing.
    fn order(&self) -> impl Iterator<Item = Vec<Vec<Option<usize>>>> {
        let (spec, shape) = (self.spec(), self.shape());
        let mut first = 0;
        self.panels().iter().flat_map(|panel| (0..panel.count).map(move |_| panel)).map(move |panel| {
            let start = first;
            first += panel.channels;
            let channel = |vector, lane| shape.channel(panel.vectors, vector, lane, spec.narrowed());
            let lane = |vector, lane| Some(channel(vector, lane)).filter(|&c| c < panel.channels).map(|c| start + c);
            (0..panel.vectors).map(|vector| (0..shape.lanes).map(|l| lane(vector, l)).collect()).collect()
        })
    }

    /// Packs `weights`, `[channels][kernel rows][segments][run]`; the rows are those of the microkernel and those that it leaves out.
    ///
    /// # Panics
    /// If `weights` has another length.
    pub fn pack_weights(&self, weights: &[i8]) -> Vec<u8> {
        let (spec, step_weights) = (self.spec(), self.shape().dot_depth());
        let runs = spec.packed_rows() * spec.segments;
        assert_eq!(
            weights.len(),
            spec.channels * runs * spec.run,
            "weights are [channels][kernel rows][segments][run]"
        );
        let mut packed = Vec::with_capacity(self.packed_bytes());
        let stored = self.panels().iter().flat_map(|panel| std::iter::repeat_n(panel.weight_bytes, panel.count));
        for (vectors, bytes) in self.order().zip(stored) {
            for run in 0..runs {
                for step in 0..self.run_steps() {
                    let at = |lane: Option<usize>, i: usize| {
                        let weight = |channel: usize| weights[(channel * runs + run) * spec.run + i];
                        lane.filter(|_| i < spec.run).map_or(0, weight)
                    };
                    let taken = step_weights * step..step_weights * (step + 1);
                    for weight in vectors.iter().flatten().flat_map(|&lane| taken.clone().map(move |i| at(lane, i))) {
                        match bytes {
                            1 => packed.push(weight as u8),
                            _ => packed.extend(i16::from(weight).to_le_bytes()),
                        }
                    }
                }
            }
        }
        packed
    }

    /// Packs one value per channel in the order of the weights: biases.
    ///
    /// # Panics
    /// If there is not one value per channel.
    pub fn pack_channels(&self, values: &[i32]) -> Vec<i32> {
        assert_eq!(values.len(), self.spec().channels, "one value per channel");
        let value = |lane: Option<usize>| lane.map_or(0, |channel| values[channel]);
        self.order().flatten().flatten().map(value).collect()
    }

    /// Packs multipliers: as [`Microkernel::pack_channels`], and a second time for the odd lanes where the machine wants it.
    ///
    /// # Panics
    /// If there is not one multiplier per channel.
    pub fn pack_multipliers(&self, values: &[i32]) -> Vec<i32> {
        let (packed, shape) = (self.pack_channels(values), self.shape());
        if !shape.paired_multipliers {
            return packed;
        }
        let odd = |pair: &[i32]| [pair[1], 0];
        packed
            .chunks(shape.lanes)
            .flat_map(|vector| vector.iter().copied().chain(vector.chunks(2).flat_map(odd)))
            .collect()
    }
}
