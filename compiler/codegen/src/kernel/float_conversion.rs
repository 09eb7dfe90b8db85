//! The kernels of the float interface: equations (6) and (7) of [`qcc_num::edge`], many numbers at a time.
//!
//! | kernel | from | to |
//! |---|---|---|
//! | quantize a run | floats side by side | as many bytes |
//! | quantize planes | floats of some channels, a plane each | bytes of pixels, their channels side by side |
//! | dequantize a run, planes | the other way | |
//! | measure | floats | the greatest of their magnitudes and of what is there, as bits |
//!
//! The function, in the System V convention: `fn(from, to, factor, blocks)`, the factor `S` as the bits of an f32. A
//! *block* is [`ConversionSpec::block`] floats of a run, or so many pixels of planes; nothing outside of blocks is touched. What
//! is left of a run or a row is done by blocks that overlap.
//!
//! Channels of planes are done sixteen at a time, for a pixel has them in one part of a vector; or, up to four and no more, so that
//! pixels without gaps come out of one vector. Four channels of four pixels are transposed as bytes by one shuffle of each part.

use super::assemble::KernelError;
use crate::machine::At;
use crate::machine::float::{Float, Vector};

/// Channels of a group of planes.
pub const GROUP: usize = 16;

/// Most channels that are done together if there are no others.
pub const FEW: usize = 4;

/// Codes this far from the zero point and farther saturate, whatever the zero point is.
const MOST: f32 = 16384.0;

/// What is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConversionKind {
    /// Floats to bytes, limited.
    Quantize {
        /// Least code.
        lo: u8,
        /// Greatest code.
        hi: u8,
    },
    /// Bytes to floats.
    Dequantize,
    /// Floats to the greatest magnitude.
    Measure,
}

/// How floats and bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Both side by side, in one order.
    Run,
    /// Floats in planes, bytes by pixels.
    Planes {
        /// Channels: [`GROUP`], or at most [`FEW`] to be quantized.
        channels: usize,
        /// Bytes from plane to plane.
        plane: usize,
        /// Bytes from pixel to pixel: the number of channels where they are few.
        pixel: usize,
    },
}

/// A kernel. Equal descriptions give equal code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConversionSpec {
    /// What is converted.
    pub kind: ConversionKind,
    /// Where.
    pub layout: Layout,
    /// Zero point.
    pub zero: u8,
    /// Whether vectors are those of AVX-512, or of AVX2.
    pub zmm: bool,
    /// Whether floats that are written lie in memory too large for any cache, and are written past them.
    pub far: bool,
}

impl ConversionSpec {
    /// Whether every store of floats can go past the caches: vectors are whole cache lines, or follow one another, and are
    /// aligned wherever the first one is.
    fn streams(&self) -> bool {
        let whole_lines = match self.layout {
            Layout::Run => true,
            Layout::Planes { plane, .. } => self.zmm && plane.is_multiple_of(64),
        };
        self.far && whole_lines && self.kind == ConversionKind::Dequantize
    }

    /// Floats of a block of a run, pixels of a block of planes.
    pub fn block(&self) -> usize {
        match (self.layout, self.zmm) {
            (Layout::Run, true) => 64,
            (Layout::Run, false) => 32,
            (Layout::Planes { .. }, true) => 16,
            (Layout::Planes { .. }, false) => 8,
        }
    }
}

/// The kernel as machine code, without relocations or data.
pub fn emit(spec: &ConversionSpec) -> Result<Vec<u8>, KernelError> {
    if let Layout::Planes { channels, plane, pixel } = spec.layout {
        let few = channels <= FEW && pixel == channels && matches!(spec.kind, ConversionKind::Quantize { .. });
        if !(few || channels == GROUP) || plane >= 1 << 26 || pixel >= 1 << 26 || spec.kind == ConversionKind::Measure {
            return Err(KernelError::Spec(format!("{channels} planes, {plane} and {pixel} bytes apart")));
        }
    }
    let mut m = Float::new(spec.zmm)?;
    let kernel = Kernel { spec, from: At::new(m.argument(0)), to: At::new(m.argument(1)) };
    match (spec.kind, spec.layout) {
        (ConversionKind::Quantize { lo, hi }, layout) => kernel.quantize(&mut m, layout, (lo, hi)),
        (ConversionKind::Dequantize, layout) => kernel.dequantize(&mut m, layout),
        (ConversionKind::Measure, _) => kernel.measure(&mut m),
    }
    Ok(m.finish()?)
}

struct Kernel<'a> {
    spec: &'a ConversionSpec,
    from: At<iced_x86::code_asm::AsmRegister64>,
    to: At<iced_x86::code_asm::AsmRegister64>,
}

/// Constants of a quantization.
struct Quantizer {
    factor: Vector,
    most: Vector,
    zero: Option<Vector>,
    lo: Option<Vector>,
    hi: Option<Vector>,
}

/// Constants of a dequantization.
struct Dequantizer {
    factor: Vector,
    zero: Option<Vector>,
}

/// How floats are written.
type Store = fn(&mut Float, Vector, At<iced_x86::code_asm::AsmRegister64>);

impl Quantizer {
    /// Four vectors of floats as one of bytes, four of each in every part.
    fn bytes(&self, m: &mut Float, floats: [At<iced_x86::code_asm::AsmRegister64>; 4], vectors: usize) -> Vector {
        let codes: Vec<Vector> = floats[..vectors].iter().map(|&at| m.round(at, self.factor, self.most)).collect();
        let i16s: Vec<Vector> = codes
            .chunks(2)
            .map(|pair| {
                m.pack_i16(pair[0], pair[pair.len() - 1]);
                if let Some(zero) = self.zero {
                    m.add_i16(pair[0], zero);
                }
                pair[0]
            })
            .collect();
        let bytes = i16s[0];
        m.pack_bytes(bytes, i16s[i16s.len() - 1]);
        if let Some(lo) = self.lo {
            m.max_bytes(bytes, lo);
        }
        if let Some(hi) = self.hi {
            m.min_bytes(bytes, hi);
        }
        bytes
    }
}

/// For each part: byte `4 p + c` is byte `p` of the `c`th four.
fn fours() -> [u8; 16] {
    std::array::from_fn(|i| (4 * (i % 4) + i / 4) as u8)
}

impl Kernel<'_> {
    fn quantize(&self, m: &mut Float, layout: Layout, (lo, hi): (u8, u8)) {
        let factor = m.argument(2);
        let zero = self.spec.zero;
        let q = Quantizer {
            factor: m.splat_register(factor),
            most: m.splat(MOST.to_bits()),
            zero: (zero > 0).then(|| m.splat_i16(i16::from(zero))),
            lo: (lo > 0).then(|| m.splat_byte(lo)),
            hi: (hi < u8::MAX).then(|| m.splat_byte(hi)),
        };
        let (parts, block) = (m.parts(), self.spec.block());
        match layout {
            Layout::Run => {
                // Parts hold four of each vector: sixteen that follow each other belong to four parts.
                let order: Vec<usize> = (0..4 * parts).map(|lane| 4 * (lane % parts) + lane / parts).collect();
                let order = m.indices(&order);
                m.repeat_argument(3, &mut |m| {
                    let bytes = q.bytes(m, std::array::from_fn(|v| self.from.plus(16 * parts * v)), 4);
                    m.permute(bytes, order);
                    m.store(bytes, self.to);
                    m.release(bytes);
                    self.advance(m, 4 * block, block);
                });
            }
            Layout::Planes { channels, plane, pixel } if channels <= FEW => {
                let pixels = |i: usize| (i < 4 * channels).then_some(4 * (i % channels) + i / channels);
                let order = m.splat_part(std::array::from_fn(|i| pixels(i).map_or(0x80, |byte| byte as u8)));
                let lanes: Vec<usize> =
                    (0..channels * parts).map(|lane| 4 * (lane / channels) + lane % channels).collect();
                let lanes = (channels < FEW).then(|| m.indices(&lanes));
                m.repeat_argument(3, &mut |m| {
                    let bytes = q.bytes(m, std::array::from_fn(|c| self.from.plus(plane * c)), channels);
                    let pixels = m.shuffle(bytes, order);
                    m.release(bytes);
                    if let Some(lanes) = lanes {
                        m.permute(pixels, lanes);
                    }
                    m.store_first(pixels, 4 * parts * channels, self.to);
                    m.release(pixels);
                    self.advance(m, 4 * block, pixel * block);
                });
            }
            Layout::Planes { plane, pixel, .. } => {
                let order = m.splat_part(fours());
                m.repeat_argument(3, &mut |m| {
                    let fours = [0, 4, 8, 12].map(|first| {
                        let bytes = q.bytes(m, std::array::from_fn(|c| self.from.plus(plane * (first + c))), 4);
                        let four = m.shuffle(bytes, order);
                        m.release(bytes);
                        four
                    });
                    for (i, pixels) in m.transpose(fours).into_iter().enumerate() {
                        for part in 0..parts {
                            m.store_part(pixels, part, self.to.plus(pixel * (4 * part + i)));
                        }
                        m.release(pixels);
                    }
                    self.advance(m, 4 * block, pixel * block);
                });
            }
        }
    }

    fn dequantize(&self, m: &mut Float, layout: Layout) {
        let factor = m.argument(2);
        let factor = m.splat_register(factor);
        let real = Dequantizer { factor, zero: (self.spec.zero > 0).then(|| m.splat(u32::from(self.spec.zero))) };
        // Byte `c` of each 32-bit lane, alone in its lane.
        let one = |c: usize| std::array::from_fn(|i| if i % 4 == 0 { (i + c) as u8 } else { 0x80 });
        let orders = (layout != Layout::Run).then(|| [0, 1, 2, 3].map(|c| m.splat_part(one(c))));
        let blocks = |m: &mut Float, store: Store| match (layout, orders) {
            (Layout::Planes { plane, pixel, .. }, Some(orders)) => {
                self.dequantize_planes(m, &real, (plane, pixel), orders, store);
            }
            _ => self.dequantize_run(m, &real, store),
        };
        if !self.spec.streams() {
            return blocks(m, Float::store);
        }
        m.if_aligned(self.to.base, &mut |m| blocks(m, Float::stream), &mut |m| blocks(m, Float::store));
    }

    fn dequantize_run(&self, m: &mut Float, real: &Dequantizer, store: Store) {
        let (parts, block) = (m.parts(), self.spec.block());
        m.repeat_argument(3, &mut |m| {
            for v in 0..4 {
                let x = m.widen(self.from.plus(4 * parts * v));
                m.real(x, real.zero, real.factor);
                store(m, x, self.to.plus(16 * parts * v));
                m.release(x);
            }
            self.advance(m, block, 4 * block);
        });
    }

    fn dequantize_planes(
        &self,
        m: &mut Float,
        real: &Dequantizer,
        (plane, pixel): (usize, usize),
        orders: [Vector; 4],
        store: Store,
    ) {
        let (parts, block) = (m.parts(), self.spec.block());
        m.repeat_argument(3, &mut |m| {
            let pixels = [0, 1, 2, 3].map(|i| {
                let views: Vec<_> = (0..parts).map(|part| self.from.plus(pixel * (4 * part + i))).collect();
                m.gather_parts(&views)
            });
            for (four, channels) in m.transpose(pixels).into_iter().enumerate() {
                for (c, &order) in orders.iter().enumerate() {
                    let x = m.shuffle(channels, order);
                    m.real(x, real.zero, real.factor);
                    store(m, x, self.to.plus(plane * (4 * four + c)));
                    m.release(x);
                }
                m.release(channels);
            }
            self.advance(m, pixel * block, 4 * block);
        });
    }

    fn measure(&self, m: &mut Float) {
        let mask = m.splat(0x7fff_ffff);
        let greatest = [0, 1, 2, 3].map(|_| m.splat(0));
        let (parts, block) = (m.parts(), self.spec.block());
        m.repeat_argument(3, &mut |m| {
            for (v, &greatest) in greatest.iter().enumerate() {
                m.raise_magnitude(greatest, mask, self.from.plus(16 * parts * v));
            }
            self.advance(m, 4 * block, 0);
        });
        let [first, rest @ ..] = greatest;
        rest.into_iter().for_each(|vector| m.raise(first, vector));
        m.raise_memory(first, self.to);
    }

    fn advance(&self, m: &mut Float, from: usize, to: usize) {
        m.advance(self.from.base, from as i64);
        m.advance(self.to.base, to as i64);
    }
}
