//! How many steps may be summed in 16 bits: a proof from the weights themselves.
//!
//! A step multiplies four activations of a pixel by four weights of a channel. `vpmaddubsw` adds the products of the first two, and
//! those of the last two, in a 16-bit lane each, and the products of the next steps of a *group* are added to them. A group is `F`
//! successive steps of a run from a multiple of `F` on, or what is left of the run. Let `P` and `N` be the sums of the positive weights and of
//! the magnitudes of the negative ones that a group brings to a lane. With activations from 0 to `A` every partial sum, in any
//! order, lies in `[-A N, A P]`: nothing saturates and nothing wraps if
//! ```text
//! A P <= 32767   and   A N <= 32768                                                     (32)
//! ```
//! for all groups and lanes ([docs/math.md](../../../../../docs/math.md)). It depends on the weights and on where runs begin, not on the machine.

use super::plan::Microkernel;

/// Weights of a lane of 32 bits in a step.
const STEP: usize = 4;

/// Lengths of groups that are tried, the longest first: more bring next to nothing.
const LENGTHS: [usize; 11] = [16, 12, 10, 8, 7, 6, 5, 4, 3, 2, 1];

/// Whether (32) holds for `weights`, runs of `run` weights each, in groups of so many steps, with activations up to `greatest`.
pub fn fits(weights: &[i8], run: usize, steps: usize, greatest: u8) -> bool {
    weights.chunks(run).flat_map(|run| run.chunks(STEP * steps)).all(|group| group_fits(group, greatest))
}

fn group_fits(group: &[i8], greatest: u8) -> bool {
    let mut sums = [[0i32; 2]; 2];
    for (i, &weight) in group.iter().enumerate() {
        add(&mut sums[i % STEP / 2], weight);
    }
    sums.iter().all(|lane| lane_fits(lane, greatest))
}

/// Adds a weight to the sums of positive and of negative weights of a 16-bit lane.
fn add(lane: &mut [i32; 2], weight: i8) {
    lane[usize::from(weight < 0)] += i32::from(weight);
}

fn lane_fits(lane: &[i32; 2], greatest: u8) -> bool {
    lane.iter().all(|sum| i16::try_from(i32::from(greatest) * sum).is_ok())
}

/// The longest group of at most `most` steps that (32) allows for the weights of all these channels, shorter where runs are then cut
/// evenly; nothing if not even single steps are allowed.
pub fn longest<'w>(
    channels: impl Iterator<Item = &'w [i8]> + Clone,
    run: usize,
    greatest: u8,
    most: usize,
) -> Option<usize> {
    let allowed = |steps: usize| channels.clone().all(|weights| fits(weights, run, steps, greatest));
    let all = run.div_ceil(STEP);
    let lengths = LENGTHS.into_iter().filter(|&steps| steps <= most);
    let longest = lengths.map(|steps| steps.min(all)).find(|&steps| allowed(steps))?;
    let even = all.div_ceil(all.div_ceil(longest));
    Some(if allowed(even) { even } else { longest })
}

impl Microkernel {
    /// Whether (32) holds for packed weights, read group by group as the code reads them. True where there are no sums of 16 bits. Lanes of no channel
    /// do not count: what decoded codes put there is not always 0, and is nowhere stored.
    pub fn packed_sums_fit(&self, packed: &[u8], greatest: u8) -> bool {
        let steps = self.spec().i16_steps;
        if steps == 0 {
            return true;
        }
        let mut rest = packed;
        let panels = self.panels().iter().flat_map(|panel| std::iter::repeat_n(panel, panel.count));
        let mut fit = true;
        for (panel, channels) in panels.zip(self.order()) {
            let exists: Vec<bool> = channels.iter().flatten().map(Option::is_some).collect();
            let step_bytes = panel.vectors * panel.vector_bytes;
            let (here, behind) = rest.split_at(self.panel_bytes(panel, self.spec().packed_rows()));
            rest = behind;
            for group in here.chunks(self.run_steps() * step_bytes).flat_map(|run| run.chunks(steps * step_bytes)) {
                let mut lanes = vec![[0i32; 2]; step_bytes / 2];
                for step in group.chunks(step_bytes) {
                    step.iter().enumerate().for_each(|(i, &byte)| add(&mut lanes[i / 2], byte as i8));
                }
                fit &= lanes.iter().enumerate().all(|(i, lane)| !exists[i / 2] || lane_fits(lane, greatest));
            }
        }
        fit && rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::microkernel::{MicrokernelSpec, Output};
    use crate::machine::VectorShape;

    /// Steps of which each lane of four weights is `weights`.
    fn steps(weights: [i8; 4], count: usize) -> Vec<i8> {
        weights.repeat(count)
    }

    fn longest_of(weights: &[i8], run: usize, greatest: u8) -> Option<usize> {
        longest(std::iter::once(weights), run, greatest, 16)
    }

    #[test]
    fn the_worst_weights_of_each_width() {
        // 255 * 128 = 32640 fits, 255 * 129 = 32895 does not, negative or positive.
        for (greatest, expected) in
            [(127, None), (64, Some(1)), (63, Some(1)), (31, Some(2)), (15, Some(4)), (7, Some(8))]
        {
            for sign in [1, -1] {
                let w = sign * greatest;
                assert_eq!(longest_of(&steps([w; 4], 48), 192, 255), expected, "{w}");
                // One lane is enough.
                assert_eq!(longest_of(&steps([0, 0, w, w], 48), 192, 255), expected, "{w}");
            }
        }
        // Nine steps of 4 bits: 9 * 2 * 7 = 126; eighteen of 3 bits are more than are tried.
        assert!(fits(&steps([7; 4], 9), 36, 9, 255) && !fits(&steps([7; 4], 10), 40, 10, 255));
        assert_eq!(longest_of(&steps([3; 4], 48), 192, 255), Some(16));
    }

    #[test]
    fn signs_are_summed_apart() {
        // Any of the activations may be 0, so that what alternates counts with its positive half alone.
        let alternating = steps([100, -100, 100, -100], 4);
        assert_eq!(longest_of(&alternating, 16, 255), Some(1));
        // The extremes of either sign: 128 and -128 with 255, 32767 with 1.
        assert!(fits(&[127, 1, -127, -1], 4, 1, 255) && !fits(&[127, 2, 0, 0], 4, 1, 255));
        assert!(fits(&[-128, 0, 0, 0], 4, 1, 255) && !fits(&[-128, -1, 0, 0], 4, 1, 255));
        assert!(fits(&steps([127; 4], 16), 64, 16, 8) && !fits(&steps([127; 4], 17), 68, 17, 8));
    }

    #[test]
    fn narrower_activations_allow_more_steps() {
        let w = steps([127; 4], 16);
        assert_eq!(longest_of(&w, 64, 255), None);
        assert_eq!(longest_of(&w, 64, 15), Some(8));
        assert_eq!(longest_of(&w, 64, 1), Some(16));
    }

    #[test]
    fn groups_begin_where_runs_do() {
        // Heavy steps 3 and 4 share a group of 2 steps only if groups begin at odd steps.
        let heavy =
            |at: &[usize]| (0..8).flat_map(|step| [if at.contains(&step) { 64 } else { 0 }; 4]).collect::<Vec<i8>>();
        assert!(fits(&heavy(&[1, 2]), 32, 2, 255) && !fits(&heavy(&[2, 3]), 32, 2, 255));
        // In runs of 5 steps and 1 byte the last group is short, and the next run begins anew.
        let mut weights = vec![0; 42];
        weights[18..24].fill(64);
        assert!(fits(&weights, 21, 5, 255) && !fits(&weights, 42, 6, 255));
        // 12 steps are cut into 6 and 6, not 8 and 4.
        assert_eq!(longest_of(&steps([7; 4], 12), 48, 255), Some(6));
    }

    #[test]
    fn packed_weights_are_read_as_the_code_reads_them() {
        let spec = MicrokernelSpec {
            width: 5,
            panel_vectors: 0,
            block_rows: 1,
            channels: 37,
            k_rows: 2,
            left_out: [1, 0],
            k_row_step: 200,
            segments: 2,
            segment_step: 40,
            run: 39,
            pixel_step: 39,
            in_row_step: 200,
            out_pixel_step: 37,
            out_row_step: 200,
            prefetch_bytes: 0,
            coded: false,
            pixel_terms: false,
            fast_inner: false,
            i16_steps: 4,
            output: Output::Raw,
        };
        let mut weights = vec![15i8; 37 * 3 * 2 * 39];
        for shape in [&VectorShape::AVX2_I16_SUMS, &VectorShape::AVX512_I16_SUMS] {
            let kernel = Microkernel::new(spec.clone(), shape);
            assert!(fits(&weights, 39, 4, 255) && kernel.packed_sums_fit(&kernel.pack_weights(&weights), 255));
        }
        // One weight too many in one lane of one group, in the last channel's last run and in the first.
        for at in [weights.len() - 8, 1] {
            weights[at] += 9;
            for shape in [&VectorShape::AVX2_I16_SUMS, &VectorShape::AVX512_I16_SUMS] {
                let kernel = Microkernel::new(spec.clone(), shape);
                let packed = kernel.pack_weights(&weights);
                assert!(!fits(&weights, 39, 4, 255) && !kernel.packed_sums_fit(&packed, 255), "{at}");
                assert!(kernel.packed_sums_fit(&packed, 128));
            }
            weights[at] -= 9;
        }
    }
}
