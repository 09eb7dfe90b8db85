//! A model's description as Rust data, and its form inside `model.so` ([`QccModelInfo`] and the tensors behind it).

use crate::abi::{ABI_VERSION, MAX_RANK, NAME_BYTES, QccModelInfo, QccTensorInfo, VERSION_BYTES};
use crate::cpu::CpuFeatures;
use crate::tensor::{DType, elements};
use std::mem::size_of;

/// Most inputs, and most outputs, of a model.
pub const MAX_TENSORS: u32 = 4096;

/// Greatest alignment of the scratch that a reader believes.
const MAX_ALIGN: u64 = 1 << 21;

/// How stored values stand for real ones: `real = scale * (stored - zero_point)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quant {
    /// Finite and positive.
    pub scale: f32,
    /// Stored value of the real 0.
    pub zero_point: i32,
}

impl Quant {
    /// The scale as `(multiplier, shift)` with `scale == multiplier / 2^shift` exactly: an odd multiplier below 2^24.
    pub fn ratio(self) -> (u32, i32) {
        let bits = self.scale.to_bits();
        let (exponent, fraction) = ((bits >> 23 & 0xff).cast_signed(), bits & 0x7f_ffff);
        let (mantissa, shift) = if exponent == 0 { (fraction, 149) } else { (fraction | 0x80_0000, 150 - exponent) };
        match mantissa {
            0 => (0, 0),
            m => (m >> m.trailing_zeros(), shift - m.trailing_zeros().cast_signed()),
        }
    }
}

/// One input or output.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Name in the source model.
    pub name: String,
    /// Stored type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub dims: Vec<usize>,
    /// Meaning of the stored values; `None` where they are plain numbers.
    pub quant: Option<Quant>,
}

impl TensorInfo {
    /// Number of elements. Descriptions whose tensors do not fit the address space are refused when they are read.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Bytes as stored.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }
}

/// What a host must know of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Name from which the entry points are named.
    pub name: String,
    /// Version of the compiler.
    pub compiler: String,
    /// Digest of the source model and the options.
    pub model_hash: [u8; 32],
    /// Inputs in the order of `run`.
    pub inputs: Vec<TensorInfo>,
    /// Outputs in the order of `run`.
    pub outputs: Vec<TensorInfo>,
    /// Bytes of scratch that a call needs.
    pub scratch_bytes: u64,
    /// Alignment of the scratch in bytes, a power of two.
    pub scratch_align: u64,
    /// CPU features that the code uses.
    pub cpu_features: CpuFeatures,
    /// Multiply-accumulates of one call.
    pub macs: u64,
    /// True if `run_f32` exists.
    pub has_float_interface: bool,
}

/// A description that is damaged, or that this version cannot hold or understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// Compiled for another version of the ABI.
    #[error("ABI version {found}, this runtime understands {ABI_VERSION}: compile the model again")]
    AbiVersion {
        /// Version in the model.
        found: u32,
    },
    /// A field of the header is out of its range.
    #[error("damaged description: {field} is {value}")]
    Header {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A tensor is out of range.
    #[error("tensor {name:?}: {problem}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

/// Ending of the name of a tensor that holds mantissa and exponent of another tensor's scale: real values are
/// `mantissa * 2^exponent` times what [`Quant`] says. Such tensors come after all others.
pub const SCALE_SUFFIX: &str = ".scale";

/// The tensors that hold values, without those that hold dynamic scales of others: what a run on real numbers takes or gives.
pub fn real_tensors(tensors: &[TensorInfo]) -> &[TensorInfo] {
    let is_scale = |t: &TensorInfo| {
        let of = t.name.strip_suffix(SCALE_SUFFIX).filter(|_| t.dtype == DType::I32 && t.dims == [2]);
        of.is_some_and(|name| tensors.iter().any(|t| t.name == name && t.quant.is_some()))
    };
    let scales = tensors.iter().rev().take_while(|t| is_scale(t)).count();
    &tensors[..tensors.len() - scales]
}

impl ModelInfo {
    /// The bytes of [`QccModelInfo`] and its tensors, little-endian, for `.rodata` (alignment 8).
    ///
    /// Fails for a rank above [`MAX_RANK`], extents or a scale that are out of range, or an alignment that is no power of 2.
    pub fn encode(&self) -> Result<Vec<u8>, InfoError> {
        let tensors = || self.inputs.iter().chain(&self.outputs);
        self.check()?;
        let mut out = Vec::with_capacity(size_of::<QccModelInfo>() + tensors().count() * size_of::<QccTensorInfo>());
        let header = [
            ABI_VERSION,
            field("header_bytes", size_of::<QccModelInfo>())?,
            field("tensor_bytes", size_of::<QccTensorInfo>())?,
            field("n_inputs", self.inputs.len())?,
            field("n_outputs", self.outputs.len())?,
            u32::from(self.has_float_interface),
        ];
        out.extend(header.iter().flat_map(|v| v.to_le_bytes()));
        let wide = [self.scratch_bytes, self.scratch_align, self.cpu_features.bits(), self.macs];
        out.extend(wide.iter().flat_map(|v| v.to_le_bytes()));
        out.extend(self.model_hash);
        out.extend(fixed_text::<VERSION_BYTES>(&self.compiler));
        out.extend(fixed_text::<NAME_BYTES>(&self.name));
        for tensor in tensors() {
            let (multiplier, shift) = tensor.quant.map_or((0, 0), Quant::ratio);
            out.extend(fixed_text::<NAME_BYTES>(&tensor.name));
            out.extend((tensor.dtype as u32).to_le_bytes());
            out.extend(field("rank", tensor.dims.len())?.to_le_bytes());
            let padded = tensor.dims.iter().copied().chain(std::iter::repeat(1)).take(MAX_RANK);
            for d in padded {
                // Extents are within the address space: `check`.
                out.extend(i64::try_from(d).unwrap_or(i64::MAX).to_le_bytes());
            }
            out.extend(tensor.quant.map_or(0, |q| q.scale.to_bits()).to_le_bytes());
            out.extend(tensor.quant.map_or(0, |q| q.zero_point).to_le_bytes());
            out.extend(multiplier.to_le_bytes());
            out.extend(shift.to_le_bytes());
        }
        Ok(out)
    }

    /// Reads a description from the bytes of a file, which may go on behind it.
    pub fn decode(bytes: &[u8]) -> Result<ModelInfo, InfoError> {
        let word = |i: usize| {
            let bytes = bytes.get(4 * i..).and_then(|b| b.first_chunk::<4>());
            let value = bytes.map(|b| u32::from_le_bytes(*b));
            value.ok_or(InfoError::Header { field: "the size", value: 4 * i as u64 })
        };
        let version = word(0)?;
        if version != ABI_VERSION {
            return Err(InfoError::AbiVersion { found: version });
        }
        let (header, tensor, tensors) = (word(1)?, word(2)?, u64::from(word(3)?) + u64::from(word(4)?));
        let needed = u64::from(tensor).checked_mul(tensors).and_then(|n| n.checked_add(header.into()));
        let size = bytes.len() as u64;
        if size < size_of::<QccModelInfo>() as u64 || needed.is_none_or(|n| n > size) {
            return Err(InfoError::Header { field: "the size", value: size });
        }
        // SAFETY: the header and all tensors that it announces lie within `bytes`; `read` checks the distances between them.
        unsafe { ModelInfo::read(bytes.as_ptr().cast()) }
    }

    /// Reads the description that a model's `info()` points to.
    ///
    /// # Safety
    /// `info` must be null or point to a `QccModelInfo` followed by the tensors that it announces, readable during the call.
    pub unsafe fn read(info: *const QccModelInfo) -> Result<ModelInfo, InfoError> {
        if info.is_null() {
            return Err(InfoError::Header { field: "the address", value: 0 });
        }
        // SAFETY: by the caller's promise; the version is the first field in every version.
        let version = unsafe { info.cast::<u32>().read_unaligned() };
        if version != ABI_VERSION {
            return Err(InfoError::AbiVersion { found: version });
        }
        // SAFETY: by the caller's promise.
        let header = unsafe { info.read_unaligned() };
        let (n_inputs, n_outputs) = (header.n_inputs, header.n_outputs);
        at_least("header_bytes", header.header_bytes, size_of::<QccModelInfo>())?;
        at_least("tensor_bytes", header.tensor_bytes, size_of::<QccTensorInfo>())?;
        for (field, count) in [("n_inputs", n_inputs), ("n_outputs", n_outputs)] {
            if count > MAX_TENSORS {
                return Err(InfoError::Header { field, value: count.into() });
            }
        }
        let tensor = |index: u32| {
            let offset = header.header_bytes as usize + index as usize * header.tensor_bytes as usize;
            // SAFETY: the caller promises the announced tensors, and `index` is below their number.
            TensorInfo::from_abi(&unsafe { info.byte_add(offset).cast::<QccTensorInfo>().read_unaligned() })
        };
        let model = ModelInfo {
            name: text(&header.name),
            compiler: text(&header.compiler),
            model_hash: header.model_hash,
            inputs: (0..n_inputs).map(tensor).collect::<Result<_, _>>()?,
            outputs: (n_inputs..n_inputs + n_outputs).map(tensor).collect::<Result<_, _>>()?,
            scratch_bytes: header.scratch_bytes,
            scratch_align: header.scratch_align,
            cpu_features: CpuFeatures::from_bits(header.cpu_features),
            macs: header.macs,
            has_float_interface: header.has_float_edge != 0,
        };
        model.check()?;
        Ok(model)
    }

    /// What holds for every description that is written, read or run.
    pub(crate) fn check(&self) -> Result<(), InfoError> {
        let header = |field, value| Err(InfoError::Header { field, value });
        if !self.scratch_align.is_power_of_two() || self.scratch_align > MAX_ALIGN {
            return header("scratch_align", self.scratch_align);
        }
        if isize::try_from(self.scratch_bytes).is_err() {
            return header("scratch_bytes", self.scratch_bytes);
        }
        for (field, list) in [("n_inputs", &self.inputs), ("n_outputs", &self.outputs)] {
            if list.len() > MAX_TENSORS as usize {
                return header(field, list.len() as u64);
            }
            list.iter().try_for_each(TensorInfo::check)?;
        }
        Ok(())
    }
}

impl TensorInfo {
    fn from_abi(abi: &QccTensorInfo) -> Result<TensorInfo, InfoError> {
        let name = text(&abi.name);
        let fail = |problem: String| InfoError::Tensor { name: name.clone(), problem };
        let dtype = DType::from_code(abi.dtype).ok_or_else(|| fail(format!("unknown type code {}", abi.dtype)))?;
        let dims = abi.dims.get(..abi.rank as usize).ok_or_else(|| fail(format!("rank {}", abi.rank)))?;
        let dims = dims.iter().map(|&d| usize::try_from(d).map_err(|_| fail(format!("extent {d}"))));
        let dims = dims.collect::<Result<Vec<_>, _>>()?;
        let quant = Quant { scale: f32::from_bits(abi.scale_bits), zero_point: abi.zero_point };
        Ok(TensorInfo { dtype, dims, quant: (abi.scale_bits != 0).then_some(quant), name })
    }

    fn check(&self) -> Result<(), InfoError> {
        let fail = |problem: String| Err(InfoError::Tensor { name: self.name.clone(), problem });
        if self.dims.len() > MAX_RANK {
            return fail(format!("rank {} is above {MAX_RANK}", self.dims.len()));
        }
        // The float view has 4 bytes an element: the bound must hold for it too.
        let bytes = elements(&self.dims).and_then(|n| n.checked_mul(self.dtype.size().max(4)));
        if bytes.is_none_or(|n| isize::try_from(n).is_err()) {
            return fail(format!("extents {:?} exceed the address space", self.dims));
        }
        match self.quant {
            Some(q) if !(q.scale.is_finite() && q.scale > 0.0) => fail(format!("scale {:?}", q.scale)),
            _ => Ok(()),
        }
    }
}

/// A number of the header.
fn field(field: &'static str, value: usize) -> Result<u32, InfoError> {
    u32::try_from(value).map_err(|_| InfoError::Header { field, value: value as u64 })
}

fn at_least(field: &'static str, value: u32, least: usize) -> Result<(), InfoError> {
    if (value as usize) < least { Err(InfoError::Header { field, value: value.into() }) } else { Ok(()) }
}

/// `text` in `N` bytes, cut at a character's border, with at least one NUL behind it.
fn fixed_text<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [0; N];
    let len = (0..=text.len().min(N - 1)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    out[..len].copy_from_slice(&text.as_bytes()[..len]);
    out
}

/// The text before the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ModelInfo {
        ModelInfo {
            name: "net".into(),
            compiler: "qcc 0.1.0".into(),
            model_hash: [9; 32],
            inputs: vec![TensorInfo {
                name: "image".into(),
                dtype: DType::U8,
                dims: vec![1, 3, 8, 8],
                quant: Some(Quant { scale: 0.0041, zero_point: 114 }),
            }],
            outputs: vec![TensorInfo { name: "class".into(), dtype: DType::I64, dims: vec![1], quant: None }],
            scratch_bytes: 4096,
            scratch_align: 64,
            cpu_features: CpuFeatures::AVX2,
            macs: 1_000_000,
            has_float_interface: true,
        }
    }

    fn read_back(bytes: &[u8]) -> Result<ModelInfo, InfoError> {
        // SAFETY: the tests pass what `encode` wrote, with fields changed but the announced tensors in place.
        unsafe { ModelInfo::read(bytes.as_ptr().cast()) }
    }

    #[test]
    fn descriptions_round_trip() {
        let bytes = sample().encode().unwrap();
        assert_eq!(bytes.len(), size_of::<QccModelInfo>() + 2 * size_of::<QccTensorInfo>());
        assert_eq!(read_back(&bytes).unwrap(), sample());
    }

    #[test]
    fn damage_is_refused() {
        let good = sample().encode().unwrap();
        let tensor = size_of::<QccModelInfo>();
        for (offset, value, message) in [
            (0, 77, "ABI version 77"),
            (4, 8, "header_bytes"),
            (8, 8, "tensor_bytes"),
            (12, u32::MAX, "n_inputs"),
            (32, 3, "scratch_align"),
            (28, 1 << 31, "scratch_bytes"),
            (tensor + 64, 99, "unknown type code 99"),
            (tensor + 68, 9, "rank 9"),
            (tensor + 76, 1 << 31, "extent"),
            (tensor + 84, 1 << 30, "address space"),
            (tensor + 136, f32::NAN.to_bits(), "scale NaN"),
        ] {
            let mut bad = good.clone();
            bad[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            let error = read_back(&bad).unwrap_err().to_string();
            assert!(error.contains(message), "{error:?} for {message:?}");
        }
        // SAFETY: a null pointer is allowed.
        assert!(unsafe { ModelInfo::read(std::ptr::null()) }.is_err());
    }

    #[test]
    fn files_that_end_too_early_are_refused() {
        let good = sample().encode().unwrap();
        let mut longer = good.clone();
        longer.extend([7; 9]);
        assert_eq!(ModelInfo::decode(&longer), Ok(sample()));
        for length in 0..good.len() {
            assert!(ModelInfo::decode(&good[..length]).is_err(), "{length}");
        }
        for offset in (4..24).step_by(4) {
            let mut bad = good.clone();
            bad[offset..offset + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            // A flag, the last of these, has no wrong value.
            assert_eq!(ModelInfo::decode(&bad).is_err(), offset < 20, "{offset}");
        }
    }

    #[test]
    fn ratios_equal_their_scales() {
        for scale in [1.0f32, 0.0041, 1.0 / 255.0, 3e-42, 1e30, f32::MIN_POSITIVE, f32::MAX] {
            let (multiplier, shift) = Quant { scale, zero_point: 0 }.ratio();
            assert!(multiplier < 1 << 24 && multiplier % 2 == 1);
            let power = f64::from_bits((1023 - i64::from(shift)).cast_unsigned() << 52);
            assert_eq!(f64::from(multiplier) * power, f64::from(scale), "{scale:?}");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(text(&fixed_text::<4>("aéé")), "aé");
        assert_eq!(text(&fixed_text::<4>("aaéé")), "aa");
        let mut info = sample();
        info.inputs[0].name = "x".repeat(100);
        assert_eq!(read_back(&info.encode().unwrap()).unwrap().inputs[0].name.len(), NAME_BYTES - 1);
    }
}
