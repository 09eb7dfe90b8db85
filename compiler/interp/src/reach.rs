//! Where a window meets its input: the loops of convolution and pooling without a test per element.

use std::ops::Range;

/// One element of a window along one dimension: the output positions at which it lies inside the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Output positions.
    pub(crate) outputs: Range<usize>,
    /// Input position that the first of them reads; each next one reads `stride` further.
    pub(crate) first: usize,
}

/// Output position `o` of `outputs` reads input position `o * stride + offset - pad`, where `offset` is the element's index
/// times the dilation. Those outside `0..input` are left out.
pub(crate) fn reach(outputs: usize, stride: usize, pad: usize, offset: usize, input: usize) -> Reach {
    let begin = pad.saturating_sub(offset).div_ceil(stride);
    let end = (input + pad).saturating_sub(offset).div_ceil(stride).min(outputs);
    if begin >= end {
        return Reach { outputs: 0..0, first: 0 };
    }
    Reach { outputs: begin..end, first: begin * stride + offset - pad }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_definition() {
        for (outputs, stride, pad) in (0..6).flat_map(|o| (1..4).flat_map(move |s| (0..5).map(move |p| (o, s, p)))) {
            for (offset, input) in (0..7).flat_map(|o| (0..6).map(move |i| (o, i))) {
                let at = |o: usize| (o * stride + offset).checked_sub(pad).filter(|&i| i < input);
                let inside: Vec<usize> = (0..outputs).filter(|&o| at(o).is_some()).collect();
                let r = reach(outputs, stride, pad, offset, input);
                assert_eq!(r.outputs.clone().collect::<Vec<_>>(), inside);
                assert!(inside.is_empty() || at(inside[0]) == Some(r.first));
            }
        }
    }
}
