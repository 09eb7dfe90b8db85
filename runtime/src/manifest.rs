//! The manifest inside a compiled model: where it came from, how it was quantized, and what runs.
//!
//! Protocol buffers by derive; field numbers are never reused. Readers ignore what they do not know, so an older tool can
//! read a newer model's manifest. The manifest informs people and tools; no entry point reads it.

use prost::Message;

/// What a model says about its own making.
#[derive(Clone, PartialEq, Message)]
pub struct Manifest {
    /// Version of the compiler.
    #[prost(string, tag = "1")]
    pub compiler: String,
    /// Target as given to `--target`: `x86-64-v4`, `aarch64`.
    #[prost(string, tag = "2")]
    pub target: String,
    /// Options that shaped the code, by flag name.
    #[prost(btree_map = "string, string", tag = "3")]
    pub options: std::collections::BTreeMap<String, String>,
    /// The passes that ran, as a pipeline string.
    #[prost(string, tag = "4")]
    pub pipeline: String,
    /// Preprocessing of each input, in order.
    #[prost(message, repeated, tag = "5")]
    pub preprocessing: Vec<Preprocessing>,
    /// Where the activation ranges came from: `calibration, 200 samples, mse`, or `batch norm statistics`.
    #[prost(string, tag = "6")]
    pub ranges: String,
    /// What runs, in order.
    #[prost(message, repeated, tag = "7")]
    pub steps: Vec<Step>,
    /// Quantization of every stored tensor.
    #[prost(message, repeated, tag = "8")]
    pub tensors: Vec<TensorQuant>,
    /// Memory of a call.
    #[prost(message, optional, tag = "9")]
    pub arena: Option<ArenaPlan>,
    /// File name of the source model, without its folder.
    #[prost(string, tag = "10")]
    pub source: String,
    /// Inputs that the source model declares as integers.
    #[prost(message, repeated, tag = "11")]
    pub integer_inputs: Vec<Declared>,
    /// Outputs that the source model declares as integers.
    #[prost(message, repeated, tag = "12")]
    pub integer_outputs: Vec<Declared>,
    /// Sums in 32 bits, in the order in which they are computed.
    #[prost(message, repeated, tag = "13")]
    pub accumulators: Vec<Accumulator>,
    /// Buffers in the scratch memory.
    #[prost(message, repeated, tag = "14")]
    pub buffers: Vec<BufferSpan>,
    /// Requantizations by equations (1) to (4) or (15) of docs/math.md.
    #[prost(message, repeated, tag = "15")]
    pub requantizations: Vec<Requantization>,
}

/// What is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Term {
    /// A code of 8 bits times a weight of 8 bits with a sign.
    WeightedCode = 0,
    /// Two codes less their zero points, multiplied.
    Product = 1,
    /// A code less its zero point.
    Code = 2,
}

/// What bounds the sums of one operation, over all of its output channels.
#[derive(Clone, PartialEq, Message)]
pub struct Accumulator {
    /// Name of the value that is computed from them.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Products, or elements, of one sum.
    #[prost(uint64, tag = "2")]
    pub terms: u64,
    /// What a term is.
    #[prost(enumeration = "Term", tag = "3")]
    pub term: i32,
    /// Least number of the bias.
    #[prost(sint64, tag = "4")]
    pub bias_low: i64,
    /// Greatest number of the bias.
    #[prost(sint64, tag = "5")]
    pub bias_high: i64,
    /// Least sum for any input.
    #[prost(sint64, tag = "6")]
    pub low: i64,
    /// Greatest sum for any input.
    #[prost(sint64, tag = "7")]
    pub high: i64,
}

/// A buffer in the scratch memory of a call.
#[derive(Clone, PartialEq, Message)]
pub struct BufferSpan {
    /// Name of the value that it was made for.
    #[prost(string, tag = "1")]
    pub name: String,
    /// First byte, counted from the start of the scratch memory.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Length in bytes.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// First step that touches it.
    #[prost(uint32, tag = "4")]
    pub first: u32,
    /// Last step that touches it.
    #[prost(uint32, tag = "5")]
    pub last: u32,
}

/// Constants of one requantization.
#[derive(Clone, PartialEq, Message)]
pub struct Requantization {
    /// Name of the value that it gives.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Least factor of a channel.
    #[prost(sint64, tag = "2")]
    pub mult_low: i64,
    /// Greatest factor of a channel.
    #[prost(sint64, tag = "3")]
    pub mult_high: i64,
    /// Left shift of the sums.
    #[prost(uint32, tag = "4")]
    pub shl: u32,
    /// Offset before the last shift.
    #[prost(sint64, tag = "5")]
    pub offset: i64,
    /// Least result.
    #[prost(sint64, tag = "6")]
    pub least: i64,
    /// Greatest result.
    #[prost(sint64, tag = "7")]
    pub greatest: i64,
}

/// An input or output that the source model declares as integers. Tools take and give it so; the entry points have the codes that
/// the description tells of, which may lie elsewhere: codes with a sign are computed with as codes without one.
#[derive(Clone, PartialEq, Message)]
pub struct Declared {
    /// Name in the source model.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type in the source model: `u8`, `i8`, `i64`.
    #[prost(string, tag = "2")]
    pub dtype: String,
    /// `real = scale * (code - zero_point)`; 0 for plain integers.
    #[prost(float, tag = "3")]
    pub scale: f32,
    /// Code of the real number 0.
    #[prost(sint32, tag = "4")]
    pub zero_point: i32,
}

/// From an image file to an input tensor.
#[derive(Clone, PartialEq, Message)]
pub struct Preprocessing {
    /// Input that it is for.
    #[prost(string, tag = "1")]
    pub input: String,
    /// Name of the preset it was taken from, such as `imagenet`; empty for none.
    #[prost(string, tag = "2")]
    pub preset: String,
    /// Length of the shorter side after resizing, in pixels, or the height if there is a width too; 0 for no resizing.
    #[prost(uint32, tag = "3")]
    pub resize: u32,
    /// Height of the centre crop in pixels; 0 for none.
    #[prost(uint32, tag = "4")]
    pub crop: u32,
    /// Factor on the 8-bit values before mean and deviation, commonly 1/255.
    #[prost(float, tag = "5")]
    pub scale: f32,
    /// Subtracted from each channel.
    #[prost(float, repeated, tag = "6")]
    pub mean: Vec<f32>,
    /// Divides each channel after the subtraction.
    #[prost(float, repeated, tag = "7")]
    pub std: Vec<f32>,
    /// `NCHW` or `NHWC`.
    #[prost(string, tag = "8")]
    pub layout: String,
    /// `RGB` or `BGR`.
    #[prost(string, tag = "9")]
    pub channels: String,
    /// Width after resizing, where both sides are given; otherwise 0.
    #[prost(uint32, tag = "10")]
    pub resize_width: u32,
    /// Whether an image stays as it is that is smaller than `resize` and holds the crop.
    #[prost(bool, tag = "11")]
    pub resize_shrinks: bool,
    /// Width of the centre crop.
    #[prost(uint32, tag = "12")]
    pub crop_width: u32,
}

/// One kernel call.
#[derive(Clone, PartialEq, Message)]
pub struct Step {
    /// Name of the value that it produces.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Kernel with its parameters.
    #[prost(string, tag = "2")]
    pub kernel: String,
    /// Multiply-accumulates.
    #[prost(uint64, tag = "3")]
    pub macs: u64,
    /// Bytes written.
    #[prost(uint64, tag = "4")]
    pub output_bytes: u64,
    /// Bytes of constants read, as they are stored.
    #[prost(uint64, tag = "5")]
    pub weight_bytes: u64,
    /// Bits of a stored weight, of a product; else 0.
    #[prost(uint32, tag = "6")]
    pub weight_bits: u32,
    /// Steps whose products it sums in 16 bits; 0 where sums have 32.
    #[prost(uint32, tag = "9")]
    pub i16_steps: u32,
    /// The multiplications that it really does for `macs`, in those of bytes that take as long: fewer in a form of fewer, and where padding is left out.
    #[prost(uint64, tag = "10")]
    pub products: u64,
    /// Function of the code, as the symbol table names it.
    #[prost(string, tag = "11")]
    pub symbol: String,
}

/// How one stored tensor stands for real values: `real = scale * (stored - zero_point)`.
#[derive(Clone, PartialEq, Message)]
pub struct TensorQuant {
    /// Name of the value.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Stored type, as in `.qir`.
    #[prost(string, tag = "2")]
    pub dtype: String,
    /// Extents, outermost first.
    #[prost(uint64, repeated, tag = "3")]
    pub dims: Vec<u64>,
    /// One scale, or one for each index of `axis`.
    #[prost(double, repeated, tag = "4")]
    pub scales: Vec<f64>,
    /// One zero point, or one for each index of `axis`.
    #[prost(sint32, repeated, tag = "5")]
    pub zero_points: Vec<i32>,
    /// Axis that several scales run along.
    #[prost(uint32, optional, tag = "6")]
    pub axis: Option<u32>,
}

/// Summary of the memory plan, in bytes.
#[derive(Clone, PartialEq, Message)]
pub struct ArenaPlan {
    /// Scratch of a call.
    #[prost(uint64, tag = "1")]
    pub scratch_bytes: u64,
    /// Sum of all buffers, as if none shared memory.
    #[prost(uint64, tag = "2")]
    pub unshared_bytes: u64,
    /// Most bytes alive at one step: no plan can be smaller.
    #[prost(uint64, tag = "3")]
    pub peak_live_bytes: u64,
    /// Constants in `.rodata`.
    #[prost(uint64, tag = "4")]
    pub constant_bytes: u64,
    /// Number of buffers.
    #[prost(uint32, tag = "5")]
    pub buffers: u32,
}

impl Manifest {
    /// The content of the data symbol [`crate::abi::symbol::MANIFEST`]: a `u64` length, then the message.
    pub fn to_section(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.encoded_len());
        out.extend((self.encoded_len() as u64).to_le_bytes());
        out.extend(self.encode_to_vec());
        out
    }

    /// Reads what [`Manifest::to_section`] wrote. Bytes behind the message are ignored.
    pub fn from_section(bytes: &[u8]) -> Result<Manifest, prost::DecodeError> {
        let (length, body) = bytes.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        // A length beyond the section leaves the whole rest, which then ends early and is refused by the decoder.
        Manifest::decode(body.get(..length).unwrap_or(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_round_trip_through_their_section() {
        let manifest = Manifest {
            compiler: "qcc 0.1.0".into(),
            options: [("io".to_string(), "float".to_string())].into(),
            steps: vec![Step {
                products: 20,
                name: "conv1".into(),
                kernel: "conv 7x64".into(),
                macs: 118_013_952,
                ..Step::default()
            }],
            tensors: vec![TensorQuant {
                scales: vec![0.1, 0.2],
                zero_points: vec![0, -5],
                axis: Some(0),
                ..Default::default()
            }],
            arena: Some(ArenaPlan { scratch_bytes: 1 << 20, ..ArenaPlan::default() }),
            ..Manifest::default()
        };
        let mut section = manifest.to_section();
        section.extend([0; 24]);
        assert_eq!(Manifest::from_section(&section).unwrap(), manifest);
        assert_eq!(manifest.to_section(), manifest.clone().to_section());
    }

    #[test]
    fn damaged_sections_do_not_panic() {
        let section = Manifest { pipeline: "fold-bn".into(), ..Manifest::default() }.to_section();
        for end in 0..section.len() {
            let _ = Manifest::from_section(&section[..end]);
        }
        assert!(Manifest::from_section(&[9, 0, 0, 0, 0, 0, 0, 0, 0xff]).is_err());
    }
}
