//! From an image to an input: `value = (pixel / scale - mean) / std`.

use std::fmt;
use std::str::FromStr;

use qcc_ir::{Data, Range, Type};
use qcc_runtime::manifest::Preprocessing;

use super::array::elements_of;
use super::image::{Extent, RgbImage};

/// How an image is brought to size before it is cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resize {
    /// It stays as it is.
    #[default]
    Keep,
    /// The shorter side gets this length.
    Short(u32),
    /// The same, but an image whose shorter side is less and still holds the crop stays as it is.
    Shrink(u32),
    /// Both sides are given, whatever the image's proportions.
    Exact(Extent),
}

/// Order of the axes of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Batch, channels, height, width.
    Nchw,
    /// Batch, height, width, channels.
    Nhwc,
}

/// Order of the colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelOrder {
    /// Red first.
    #[default]
    Rgb,
    /// Blue first.
    Bgr,
}

/// How images become inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    /// Name of the preset that it began with; empty for none.
    pub preset: String,
    /// First step.
    pub resize: Resize,
    /// Centre crop, second step.
    pub crop: Option<Extent>,
    /// Divides the 8-bit pixel.
    pub scale: f32,
    /// Subtracted next, one for each channel or one for all.
    pub mean: Vec<f32>,
    /// Divides what is left, one for each channel or one for all.
    pub std: Vec<f32>,
    /// Order of the axes; `None` takes it from the shape of the input.
    pub layout: Option<Layout>,
    /// Order of the colours.
    pub order: ChannelOrder,
}

/// Means and deviations of the ImageNet training set, RGB.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

impl Default for Preprocess {
    fn default() -> Preprocess {
        Preprocess {
            preset: String::new(),
            resize: Resize::Keep,
            crop: None,
            scale: 255.0,
            mean: vec![0.0],
            std: vec![1.0],
            layout: None,
            order: ChannelOrder::Rgb,
        }
    }
}

impl Preprocess {
    /// Names of the presets, with what they are for.
    pub const PRESETS: &[(&str, &str)] = &[
        ("imagenet", "short side 256, crop 224, ImageNet mean and deviation, NCHW, RGB"),
        ("cifar10", "32 x 32 as it is, ImageNet mean and deviation, NCHW, RGB"),
        ("tensorflow", "short side 256, crop 224, from -1 to 1, RGB"),
        ("unit", "as it is, from 0 to 1, RGB"),
        ("raw", "as it is, from 0 to 255, RGB"),
    ];

    /// The preset with this name.
    pub fn preset(name: &str) -> Option<Preprocess> {
        let none = Preprocess { preset: name.to_string(), ..Preprocess::default() };
        let photo = Preprocess { resize: Resize::Shrink(256), crop: Some((224, 224)), ..none.clone() };
        let (mean, std) = (IMAGENET.0.to_vec(), IMAGENET.1.to_vec());
        match name {
            "imagenet" => Some(Preprocess { mean, std, layout: Some(Layout::Nchw), ..photo }),
            "cifar10" => Some(Preprocess { mean, std, layout: Some(Layout::Nchw), ..none }),
            "tensorflow" => Some(Preprocess { scale: 127.5, mean: vec![1.0], ..photo }),
            "unit" => Some(none),
            "raw" => Some(Preprocess { scale: 1.0, ..none }),
            _ => None,
        }
    }

    /// Checks what no type checks.
    pub fn check(&self) -> Result<(), String> {
        let finite = |v: &[f32]| v.iter().all(|x| x.is_finite());
        if !matches!(self.mean.len(), 1 | 3) || !matches!(self.std.len(), 1 | 3) {
            return Err("means and deviations are one number, or three".into());
        }
        if !finite(&self.mean) || !finite(&self.std) || !self.scale.is_finite() {
            return Err("scale, means and deviations must be finite".into());
        }
        if self.scale == 0.0 || self.std.contains(&0.0) {
            return Err("scale and deviations must not be 0".into());
        }
        Ok(())
    }

    /// Mean and deviation of a colour, 0 to 2 for red, green and blue: they are given in the order of the channels.
    fn moments(&self, channel: usize) -> (f32, f32) {
        let of = |v: &[f32]| v.get(channel).or(v.first()).copied().unwrap_or(0.0);
        (of(&self.mean), of(&self.std))
    }

    fn value(&self, pixel: u8, channel: usize) -> f32 {
        let (mean, std) = self.moments(channel);
        (f32::from(pixel) / self.scale - mean) / std
    }

    /// The values that any image can give.
    pub fn range(&self) -> Range {
        let ends = (0..3).flat_map(|c| [self.value(0, c), self.value(255, c)]);
        ends.fold(Range { min: f32::INFINITY, max: f32::NEG_INFINITY }, |r, x| r.union(Range { min: x, max: x }))
    }

    /// The layout of an input, where images fit it: rank 4 with one or three channels.
    pub fn layout_of(&self, ty: &Type) -> Option<Layout> {
        let channels = |i: usize| ty.rank() == 4 && matches!(ty.dims[i], 1 | 3);
        match self.layout {
            Some(Layout::Nchw) => channels(1).then_some(Layout::Nchw),
            Some(Layout::Nhwc) => channels(3).then_some(Layout::Nhwc),
            // Three channels tell more than one, which may be a side of length 1.
            None if channels(1) && (ty.dims[1] == 3 || ty.dims[3] != 3) => Some(Layout::Nchw),
            None => channels(3).then_some(Layout::Nhwc),
        }
    }

    /// One image, without its batch axis, for an input of type `ty`.
    pub fn apply(&self, image: &RgbImage, ty: &Type) -> Result<Data, String> {
        let shape = || ty.dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let layout = self.layout_of(ty).ok_or_else(|| {
            let axes = match self.layout {
                Some(Layout::Nchw) => "in the layout nchw",
                Some(Layout::Nhwc) => "in the layout nhwc",
                None => "which has four axes, one of them 1 or 3 channels",
            };
            format!("an input of shape {} is no image {axes}", shape())
        })?;
        let (channels, height, width) = match layout {
            Layout::Nchw => (ty.dims[1], ty.dims[2], ty.dims[3]),
            Layout::Nhwc => (ty.dims[3], ty.dims[1], ty.dims[2]),
        };
        let resized;
        let (old_height, old_width) = image.extent();
        let image = match self.size(old_height, old_width) {
            Some((h, w)) => {
                resized = image.resize(h as usize, w as usize)?;
                &resized
            }
            None => image,
        };
        let extent = image.extent();
        let (h, w) = self.crop.unwrap_or(extent);
        if (h as usize, w as usize) != (height, width) || h > extent.0 || w > extent.1 {
            let (h, w) = (h.min(extent.0), w.min(extent.1));
            return Err(format!(
                "an image is {h} pixels high and {w} wide after preprocessing, the input of shape {} is {height} high and \
                 {width} wide: --resize HxW and --crop HxW bring images to size",
                shape()
            ));
        }
        let view = image.crop((image.height() - height) / 2, (image.width() - width) / 2, height, width);
        let tables: Vec<Vec<f32>> = (0..3).map(|c| (0..=255).map(|p| self.value(p, c)).collect()).collect();
        let pixels = if channels == 1 { view.luma() } else { view.into_pixels() };
        let value = |y: usize, x: usize, c: usize| {
            let colour = if self.order == ChannelOrder::Bgr { channels - 1 - c } else { c };
            f64::from(tables[c][usize::from(pixels[(y * width + x) * channels + colour])])
        };
        let plane = height * width;
        let numbers = (0..channels * plane).map(|i| match layout {
            Layout::Nchw => value(i % plane / width, i % width, i / plane),
            Layout::Nhwc => value(i / channels / width, i / channels % width, i % channels),
        });
        Ok(elements_of(numbers, &ty.elem))
    }

    /// The size to bring an image to, unless it stays as it is.
    fn size(&self, height: u32, width: u32) -> Option<Extent> {
        let short = height.min(width).max(1);
        let scaled = |s: u32| {
            let side = |d: u32| (u64::from(d) * u64::from(s) / u64::from(short)).clamp(1, 1 << 16) as u32;
            (side(height), side(width))
        };
        let wanted = match self.resize {
            Resize::Keep => return None,
            Resize::Short(s) => scaled(s),
            Resize::Shrink(s) => {
                let holds_crop = self.crop.is_none_or(|(h, w)| h <= height && w <= width);
                if short <= s && holds_crop {
                    return None;
                }
                scaled(s)
            }
            Resize::Exact(extent) => extent,
        };
        (wanted != (height, width)).then_some(wanted)
    }

    /// The preprocessing that a model records.
    pub fn of_record(record: &Preprocessing) -> Preprocess {
        // It is recorded as a factor, whose inverse is not exact.
        let divisor = format!("{:.5e}", 1.0 / f64::from(record.scale)).parse().unwrap_or(1.0 / record.scale);
        Preprocess {
            preset: record.preset.clone(),
            resize: match (record.resize, record.resize_width) {
                (0, _) => Resize::Keep,
                (side, 0) if record.resize_shrinks => Resize::Shrink(side),
                (side, 0) => Resize::Short(side),
                extent => Resize::Exact(extent),
            },
            crop: (record.crop > 0).then_some((record.crop, record.crop_width)),
            scale: divisor,
            mean: record.mean.clone(),
            std: record.std.clone(),
            layout: Some(if record.layout == "NHWC" { Layout::Nhwc } else { Layout::Nchw }),
            order: if record.channels == "BGR" { ChannelOrder::Bgr } else { ChannelOrder::Rgb },
        }
    }

    /// What the model records of it, for one input.
    pub fn record(&self, input: &str, ty: &Type) -> Preprocessing {
        let exact = if let Resize::Exact(extent) = self.resize { extent } else { (0, 0) };
        let crop = self.crop.unwrap_or((0, 0));
        Preprocessing {
            input: input.to_string(),
            preset: self.preset.clone(),
            resize: match self.resize {
                Resize::Keep => 0,
                Resize::Short(s) | Resize::Shrink(s) => s,
                Resize::Exact(_) => exact.0,
            },
            resize_width: exact.1,
            resize_shrinks: matches!(self.resize, Resize::Shrink(_)),
            crop: crop.0,
            crop_width: crop.1,
            scale: 1.0 / self.scale,
            mean: self.mean.clone(),
            std: self.std.clone(),
            layout: if self.layout_of(ty) == Some(Layout::Nhwc) { "NHWC" } else { "NCHW" }.to_string(),
            channels: if self.order == ChannelOrder::Bgr { "BGR" } else { "RGB" }.to_string(),
        }
    }
}

/// As flags.
impl fmt::Display for Preprocess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |v: &[f32]| v.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
        let mut flags = vec![
            format!("--scale {}", self.scale),
            format!("--mean {}", list(&self.mean)),
            format!("--std {}", list(&self.std)),
            format!("--channel-order {}", if self.order == ChannelOrder::Rgb { "rgb" } else { "bgr" }),
        ];
        if let Some(layout) = self.layout {
            flags.push(format!("--layout {}", if layout == Layout::Nchw { "nchw" } else { "nhwc" }));
        }
        if let Some((h, w)) = self.crop {
            flags.push(format!("--crop {h}x{w}"));
        }
        match self.resize {
            // Only presets shrink.
            Resize::Keep | Resize::Shrink(_) => {}
            Resize::Short(s) => flags.push(format!("--resize {s}")),
            Resize::Exact((h, w)) => flags.push(format!("--resize {h}x{w}")),
        }
        if !self.preset.is_empty() {
            flags.insert(0, format!("--preset {}", self.preset));
        }
        f.write_str(&flags.join(" "))
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(s: &str) -> Result<Layout, String> {
        match s.to_ascii_lowercase().as_str() {
            "nchw" => Ok(Layout::Nchw),
            "nhwc" => Ok(Layout::Nhwc),
            _ => Err(format!("`{s}` is neither nchw nor nhwc")),
        }
    }
}

impl FromStr for ChannelOrder {
    type Err = String;

    fn from_str(s: &str) -> Result<ChannelOrder, String> {
        match s.to_ascii_lowercase().as_str() {
            "rgb" => Ok(ChannelOrder::Rgb),
            "bgr" => Ok(ChannelOrder::Bgr),
            _ => Err(format!("`{s}` is neither rgb nor bgr")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pixel (y, x) is (10 y + x, 100, 200).
    fn picture(height: u32, width: u32) -> RgbImage {
        let pixels = (0..height * width).flat_map(|i| [(10 * (i / width) + i % width) as u8, 100, 200]).collect();
        RgbImage::new(width as usize, height as usize, pixels).unwrap()
    }

    #[test]
    fn pixels_land_where_the_layout_says() {
        let raw = Preprocess::preset("raw").unwrap();
        let nchw = raw.apply(&picture(2, 2), &Type::f32(&[1, 3, 2, 2])).unwrap();
        assert_eq!(nchw, Data::F32([[0., 1., 10., 11.], [100.; 4], [200.; 4]].concat()));
        let bgr = Preprocess { order: ChannelOrder::Bgr, ..raw };
        let nhwc = bgr.apply(&picture(1, 2), &Type::f32(&[1, 1, 2, 3])).unwrap();
        assert_eq!(nhwc, Data::F32(vec![200., 100., 0., 200., 100., 1.]));
    }

    #[test]
    fn the_crop_is_central_and_rounds_to_the_start() {
        let crop = Preprocess { crop: Some((2, 2)), scale: 1.0, ..Preprocess::default() };
        let Data::F32(v) = crop.apply(&picture(5, 4), &Type::f32(&[1, 3, 2, 2])).unwrap() else { panic!() };
        assert_eq!(v[..4], [11., 12., 21., 22.]);
        assert!(crop.apply(&picture(1, 4), &Type::f32(&[1, 3, 2, 2])).is_err());
        assert!(Preprocess::default().apply(&picture(5, 4), &Type::f32(&[1, 3, 2, 2])).is_err());
    }

    #[test]
    fn shrinking_does_not_enlarge() {
        let imagenet = Preprocess::preset("imagenet").unwrap();
        assert_eq!(imagenet.size(227, 227), None);
        assert_eq!(imagenet.size(256, 300), None);
        assert_eq!(imagenet.size(512, 600), Some((256, 300)));
        assert_eq!(imagenet.size(100, 300), Some((256, 768)));
        assert_eq!(Preprocess { resize: Resize::Short(256), ..imagenet }.size(128, 128), Some((256, 256)));
    }

    #[test]
    fn flags_tell_preprocessings_apart() {
        let imagenet = Preprocess::preset("imagenet").unwrap();
        let text = "--preset imagenet --scale 255 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 \
                    --channel-order rgb --layout nchw --crop 224x224";
        assert_eq!(imagenet.to_string(), text);
        let exact = Preprocess { resize: Resize::Exact((6, 8)), crop: Some((4, 5)), ..Preprocess::default() };
        assert!(exact.to_string().ends_with("--crop 4x5 --resize 6x8"), "{exact}");
        let record = exact.record("x", &Type::f32(&[1, 3, 4, 5]));
        let sides = (record.resize, record.resize_width, record.crop, record.crop_width, record.resize_shrinks);
        assert_eq!(sides, (6, 8, 4, 5, false));
        let record = imagenet.record("x", &Type::f32(&[1, 3, 224, 224]));
        assert_eq!((record.resize, record.resize_width, record.resize_shrinks), (256, 0, true));
    }

    #[test]
    fn the_range_is_that_of_black_and_white() {
        let range = Preprocess::preset("imagenet").unwrap().range();
        assert!((range.min + 2.1179).abs() < 1e-3 && (range.max - 2.64).abs() < 1e-3, "{range:?}");
    }
}
