//! Images moved and mirrored, so that no sample is seen twice alike.

use qcc_ir::{Data, Tensor};
use qcc_num::random::Random;

/// What is done to images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Augment {
    /// Left and right change sides in every second one.
    pub flip: bool,
    /// Moved by up to an eighth of their extents; what comes in repeats the edge.
    pub shift: bool,
}

impl Augment {
    /// Whether anything is done.
    pub fn is_on(self) -> bool {
        self.flip || self.shift
    }

    /// Another form of an image, `[N, C, H, W]`, or `[N, H, W, C]` with channels last. What has other extents stays.
    pub fn apply(self, image: &mut Tensor, channels_last: bool, random: &mut Random) {
        let mirrored = self.flip && random.below(2) == 1;
        let &[n, a, b, c] = image.dims.as_slice() else { return };
        let (height, width) = if channels_last { (a, b) } else { (b, c) };
        let mut by = |extent: usize| {
            let most = if self.shift { extent as i64 / 8 } else { 0 };
            random.within(-most, most)
        };
        let (down, right) = (by(height), by(width));
        let Data::F32(data) = &mut image.data else { return };
        let source = data.clone();
        let (planes, step) = if channels_last { (n, c) } else { (n * a, 1) };
        let from = |o: usize, by: i64, extent: usize| (o as i64 - by).clamp(0, extent as i64 - 1) as usize;
        for plane in 0..planes {
            for y in 0..height {
                let line = (plane * height + from(y, down, height)) * width;
                for x in 0..width {
                    let x_source = from(if mirrored { width - 1 - x } else { x }, right, width);
                    let (to, at) = (((plane * height + y) * width + x) * step, (line + x_source) * step);
                    data[to..to + step].copy_from_slice(&source[at..at + step]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_move_as_a_whole() {
        let pixels: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let (flip, shift) = (Augment { flip: true, shift: false }, Augment { flip: false, shift: true });
        let mut seen = Vec::new();
        for seed in 0..20 {
            let mut planar = Tensor::f32(&[1, 1, 8, 8], pixels.clone());
            let mut interleaved = Tensor::f32(&[1, 8, 8, 1], pixels.clone());
            flip.apply(&mut planar, false, &mut Random::new(seed));
            flip.apply(&mut interleaved, true, &mut Random::new(seed));
            assert_eq!(planar.data, interleaved.data);
            seen.push(planar.as_f32().unwrap_or_default()[0]);
            let mut moved = Tensor::f32(&[1, 1, 8, 8], pixels.clone());
            shift.apply(&mut moved, false, &mut Random::new(seed));
            let moved = moved.as_f32().unwrap_or_default();
            let by = moved[27] - 27.0;
            assert!((9..54).filter(|i| !matches!(i % 8, 0 | 7)).all(|i| moved[i] - i as f32 == by), "{moved:?}");
        }
        assert!(seen.contains(&0.0) && seen.contains(&7.0));
    }
}
