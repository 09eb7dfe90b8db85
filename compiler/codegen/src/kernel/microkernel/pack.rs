//! The order in which a microkernel reads its weights, biases and multipliers.
//!
//! ```text
//! weights      [panel][kernel row][segment][step of 4][vector][lane][4]      i8, or
//!              [panel][kernel row][segment][step of 2][vector][lane][2]      i16 ([`VectorShape::dot_depth`]), in some panels i8
//!                                                                              ([`Panel::weight_bytes`](super::Panel)), or
//!              [panel][kernel row][segment][step of 4][vector][pair][lane][2]   i16 of a fast inner product
//! codes        [panel]{header, [kernel row][segment][pair of vectors][byte]}   two of 4 bits a byte: [`super::codes`]
//! biases       [panel][vector][lane]                                         i32
//! multipliers  [panel][vector][copy][lane]                                   i32
//! ```
//! Panels are those of [`super::tiling`]; lane `l` of vector `v` is channel [`VectorShape::channel`] of its panel. What does
//! not exist is zero: lanes beyond the channels, bytes beyond the run. The second copy of multipliers, where the machine
//! wants one ([`VectorShape::multiplier_copies`]), holds those of lanes 1, 3, 5... in lanes 0, 2, 4...

use super::codes::CodeTable;
use super::plan::Microkernel;
use super::tiling::Panel;

impl Microkernel {
    /// Channels in packed order: of each panel, vector and lane, the channel of the block or nothing.
    pub(super) fn order(&self) -> impl Iterator<Item = Vec<Vec<Option<usize>>>> {
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
    /// If `weights` has another length; of codes, if they are more values than these can name.
    pub fn pack_weights(&self, weights: &[i8]) -> Vec<u8> {
        let stored = self.panels().iter().flat_map(|panel| std::iter::repeat_n(panel, panel.count));
        let panels = self.packed_panels(weights);
        if self.spec().coded {
            let table = CodeTable::of(weights, self.pads_runs()).expect("codes name every weight");
            let codes = |(panel, packed): (&Panel, Vec<i8>)| [table.header(), self.run_codes(&table, panel, &packed)];
            return stored.zip(panels).flat_map(codes).flatten().collect();
        }
        let mut bytes = Vec::with_capacity(self.packed_bytes());
        for (panel, packed) in stored.zip(panels) {
            match panel.weight_bytes {
                1 => bytes.extend(packed.into_iter().map(|weight| weight as u8)),
                _ => bytes.extend(packed.into_iter().flat_map(|weight| i16::from(weight).to_le_bytes())),
            }
        }
        bytes
    }

    /// A header and the codes of all that [`Microkernel::pack_weights`] packs, in units of so many; nothing if those are too many values.
    pub fn pack_codes(&self, weights: &[i8], unit: usize) -> Option<Vec<u8>> {
        let table = CodeTable::of(weights, self.pads_runs())?;
        let packed = self.packed_panels(weights).concat();
        Some([table.header(), table.encode(&packed, unit)].concat())
    }

    /// Whether packed runs are longer than those of the weights.
    fn pads_runs(&self) -> bool {
        !self.spec().run.is_multiple_of(self.shape().dot_depth())
    }

    /// The codes of a panel, each run for itself.
    fn run_codes(&self, table: &CodeTable, panel: &Panel, packed: &[i8]) -> Vec<u8> {
        let run = self.run_steps() * panel.vectors * panel.vector_bytes;
        packed.chunks(run).flat_map(|run| table.encode(run, panel.vector_bytes)).collect()
    }

    /// The weights of each panel in the order in which they are read.
    fn packed_panels(&self, weights: &[i8]) -> Vec<Vec<i8>> {
        let (spec, step_weights, factors) = (self.spec(), self.shape().dot_depth(), self.shape().factors());
        let runs = spec.packed_rows() * spec.segments;
        assert_eq!(
            weights.len(),
            spec.channels * runs * spec.run,
            "weights are [channels][kernel rows][segments][run]"
        );
        let panel = |vectors: Vec<Vec<Option<usize>>>| {
            let mut packed = Vec::new();
            for run in 0..runs {
                for step in 0..self.run_steps() {
                    let at = |lane: Option<usize>, i: usize| {
                        let weight = |channel: usize| weights[(channel * runs + run) * spec.run + i];
                        lane.filter(|_| i < spec.run).map_or(0, weight)
                    };
                    for lanes in &vectors {
                        for first in (0..factors).map(|factor| step_weights * step + step_weights / factors * factor) {
                            let taken = first..first + step_weights / factors;
                            packed.extend(lanes.iter().flat_map(|&lane| taken.clone().map(move |i| at(lane, i))));
                        }
                    }
                }
            }
            packed
        };
        self.order().map(panel).collect()
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
        self.shape().pair_multipliers(&self.pack_channels(values))
    }
}
