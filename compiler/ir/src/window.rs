//! The window of a convolution or pooling: which elements of the padded input each output position sees.
//!
//! With `e = (kernel - 1) * dilation + 1`, the extent of the window along one dimension,
//!
//! ```text
//! output = floor((input + pad_before + pad_after - e) / stride) + 1
//! ```
//!
//! and output position `o` reads input positions `o * stride - pad_before + k * dilation` for `k` in `0..kernel`.

use crate::attr::{self, Key};
use crate::ops::Attrs;

/// A window over height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Elements of the window along height and width.
    pub kernel: [usize; 2],
    /// Distance between neighbouring windows.
    pub strides: [usize; 2],
    /// Elements added at the top, left, bottom and right.
    pub pads: [usize; 4],
    /// Distance between neighbouring elements of a window.
    pub dilations: [usize; 2],
}

impl Window {
    /// The window of a convolution whose weights extend over `kernel`.
    pub fn conv(attrs: &Attrs, kernel: [usize; 2]) -> Window {
        Window {
            kernel,
            strides: list(attrs, attr::STRIDES),
            pads: list(attrs, attr::PADS),
            dilations: list(attrs, attr::DILATIONS),
        }
    }

    /// The window of a pooling operator; one that has no dilations has none other than 1.
    pub fn pool(attrs: &Attrs) -> Window {
        let dilations = if attrs.has(attr::DILATIONS) { list(attrs, attr::DILATIONS) } else { [1, 1] };
        Window {
            kernel: list(attrs, attr::KERNEL),
            strides: list(attrs, attr::STRIDES),
            pads: list(attrs, attr::PADS),
            dilations,
        }
    }

    /// Input positions from the first to the last element of the window, along height and width. `None` on overflow
    /// and for an empty kernel.
    pub fn extent(&self) -> Option<[usize; 2]> {
        let along = |i: usize| self.kernel[i].checked_sub(1)?.checked_mul(self.dilations[i])?.checked_add(1);
        Some([along(0)?, along(1)?])
    }

    /// Height and width of the result for an input of `h` by `w`.
    pub fn output(&self, h: usize, w: usize) -> Result<[usize; 2], String> {
        if self.kernel.contains(&0) || self.strides.contains(&0) || self.dilations.contains(&0) {
            return Err(format!(
                "expected kernel, strides and dilations of at least 1, found {:?}, {:?} and {:?}",
                self.kernel, self.strides, self.dilations
            ));
        }
        let Window { kernel, pads, dilations, .. } = self;
        let too_large = || format!("kernel {kernel:?}, pads {pads:?} and dilations {dilations:?} are too large");
        let extent = self.extent().ok_or_else(too_large)?;
        let along = |i: usize, input: usize| {
            let padded = input.checked_add(self.pads[i]).and_then(|s| s.checked_add(self.pads[i + 2]));
            let padded = padded.filter(|&p| isize::try_from(p).is_ok()).ok_or_else(too_large)?;
            match padded.checked_sub(extent[i]) {
                Some(room) => Ok(room / self.strides[i] + 1),
                None => Err(format!("the window extends over {}, but the padded input only over {padded}", extent[i])),
            }
        };
        Ok([along(0, h)?, along(1, w)?])
    }

    /// Refuses a window that may lie in the padding alone, where a greatest element or a mean is undefined.
    pub fn output_nonempty(&self, h: usize, w: usize) -> Result<[usize; 2], String> {
        let output = self.output(h, w)?;
        let extent = self.extent().unwrap_or([1, 1]);
        for (i, input) in [h, w].into_iter().enumerate() {
            // The first window must reach element 0, the last must start before the end, and no element step may leap
            // over the whole input.
            let last = (output[i] - 1) * self.strides[i];
            if self.pads[i] >= extent[i] || last >= input + self.pads[i] || self.dilations[i] > input {
                return Err(format!("a window of {:?} with pads {:?} may lie outside {h}x{w}", self.kernel, self.pads));
            }
        }
        Ok(output)
    }
}

/// A list attribute of a verified operation. Anything else becomes zeros, which [`Window::output`] refuses.
fn list<const N: usize>(attrs: &Attrs, key: Key<Vec<i64>>) -> [usize; N] {
    attrs.sizes(key).try_into().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, pad: usize, dilation: usize) -> Window {
        Window { kernel: [kernel; 2], strides: [stride; 2], pads: [pad; 4], dilations: [dilation; 2] }
    }

    #[test]
    fn outputs_of_well_known_layers() {
        assert_eq!(window(7, 2, 3, 1).output(224, 224), Ok([112, 112]));
        assert_eq!(window(3, 1, 1, 1).output(56, 28), Ok([56, 28]));
        assert_eq!(window(3, 1, 2, 2).output(9, 9), Ok([9, 9]));
        assert_eq!(window(1, 1, 0, 1).output(1, 1), Ok([1, 1]));
    }

    #[test]
    fn impossible_windows_are_refused() {
        assert!(window(3, 0, 0, 1).output(9, 9).is_err());
        assert!(window(0, 1, 0, 1).output(9, 9).is_err());
        assert!(window(3, 1, 0, 0).output(9, 9).is_err());
        assert!(window(5, 1, 1, 1).output(2, 9).is_err());
        assert!(window(usize::MAX, 1, 0, 2).output(9, 9).is_err());
        assert!(window(3, 1, usize::MAX / 2, 1).output(9, 9).is_err());
    }

    /// Against the definition: every window of an accepted shape has an element inside the input.
    #[test]
    fn nonempty_windows_have_elements() {
        for (k, s, p, d) in (1..5).flat_map(|k| (1..4).flat_map(move |s| (0..5).map(move |p| (k, s, p, s % 3 + 1)))) {
            for input in 0..8usize {
                let window = window(k, s, p, d);
                if let Ok([out, _]) = window.output_nonempty(input, input) {
                    for o in 0..out {
                        let inside = |k: usize| (p..p + input).contains(&(o * s + k * d));
                        assert!((0..k).any(inside), "{window:?} over {input}");
                    }
                }
            }
        }
    }
}
