//! Windows of a convolution laid side by side, and back: rows are positions of the result, columns what the window sees there.

use std::ops::Range;

use qcc_ir::Window;

/// Floats of windows that are laid out at a time: half a megabyte.
const LAID_OUT: usize = 1 << 17;

/// Sizes of one image and of the window that slides over it. Channels come last.
#[derive(Debug, Clone)]
pub(crate) struct Patches {
    pub(crate) window: Window,
    /// Height and width of the image.
    pub(crate) input: [usize; 2],
    /// Height and width of the result.
    pub(crate) output: [usize; 2],
    /// Channels of the image.
    pub(crate) channels: usize,
    pub(crate) groups: usize,
}

impl Patches {
    /// Positions of the result.
    pub(crate) fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Elements of the image.
    pub(crate) fn image(&self) -> usize {
        self.input[0] * self.input[1] * self.channels
    }

    /// Channels of a group.
    fn per_group(&self) -> usize {
        self.channels / self.groups
    }

    /// Elements that a window sees of one group.
    pub(crate) fn depth(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1] * self.per_group()
    }

    /// True if the windows side by side are the image itself.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.window.kernel == [1, 1] && self.window.strides == [1, 1] && self.window.pads == [0; 4] && self.groups == 1
    }

    /// Extents of the image with its padding, as far as a window reaches.
    fn padded(&self) -> [usize; 2] {
        let w = &self.window;
        [0, 1].map(|d| {
            let reach = (self.output[d] - 1) * w.strides[d] + (w.kernel[d] - 1) * w.dilations[d] + 1;
            reach.max(w.pads[d] + self.input[d])
        })
    }

    /// Elements of the image with its padding.
    pub(crate) fn padded_image(&self) -> usize {
        self.padded().iter().product::<usize>() * self.channels
    }

    /// Positions laid out at a time.
    pub(crate) fn block(&self) -> usize {
        (LAID_OUT / self.depth().max(1)).clamp(1, self.positions())
    }

    /// Codes less the zero point, inside of a border of zeros.
    pub(crate) fn pad(&self, codes: &[u8], zero: u8, padded: &mut [f32]) {
        let zero = f32::from(zero);
        padded.fill(0.0);
        self.rows(|row, place| {
            let source = &codes[row];
            padded[place].iter_mut().zip(source).for_each(|(p, &q)| *p = f32::from(q) - zero);
        });
    }

    /// What belongs to the image of a gradient of the padded one.
    pub(crate) fn crop(&self, padded: &[f32], image: &mut [f32]) {
        self.rows(|row, place| image[row].copy_from_slice(&padded[place]));
    }

    /// Calls `f` with each row of the image and its place in the padded one.
    fn rows(&self, mut f: impl FnMut(Range<usize>, Range<usize>)) {
        let (length, [_, width]) = (self.input[1] * self.channels, self.padded());
        for y in 0..self.input[0] {
            let place = ((y + self.window.pads[0]) * width + self.window.pads[1]) * self.channels;
            f(y * length..(y + 1) * length, place..place + length);
        }
    }

    /// Calls `f` for each run of elements that lie side by side, in a window and in the padded image: the place in the window of
    /// position number `position - first`, the place in the image, and the length.
    fn runs(&self, group: usize, positions: Range<usize>, mut f: impl FnMut(usize, usize, usize)) {
        let (w, [_, width], channels, per_group) = (&self.window, self.padded(), self.channels, self.per_group());
        let [kh, kw] = w.kernel;
        let dense = w.dilations[1] == 1 && self.groups == 1;
        let (steps, length) = if dense { (1, kw * channels) } else { (kw, per_group) };
        for (number, position) in positions.enumerate() {
            let (oy, ox) = (position / self.output[1], position % self.output[1]);
            for ky in 0..kh {
                let line = (oy * w.strides[0] + ky * w.dilations[0]) * width + ox * w.strides[1];
                for kx in 0..steps {
                    let place = (line + kx * w.dilations[1]) * channels + group * per_group;
                    f(number * self.depth() + (ky * kw + kx) * per_group, place, length);
                }
            }
        }
    }

    /// The windows of some positions, of one group of channels.
    pub(crate) fn lay_out(&self, padded: &[f32], group: usize, positions: Range<usize>, windows: &mut [f32]) {
        self.runs(group, positions, |at, place, length| {
            windows[at..at + length].copy_from_slice(&padded[place..place + length]);
        });
    }

    /// Adds windows to the elements that they consist of.
    pub(crate) fn gather(&self, windows: &[f32], group: usize, positions: Range<usize>, padded: &mut [f32]) {
        self.runs(group, positions, |at, place, length| {
            padded[place..place + length].iter_mut().zip(&windows[at..at + length]).for_each(|(p, w)| *p += w);
        });
    }
}
