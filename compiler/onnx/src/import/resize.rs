//! `Upsample` and `Resize`: nearest neighbour by whole factors, where every element is repeated.

use qcc_ir::ValueId;

use super::layout::{self, Repeat};
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// How a position of the result becomes a position of the operand.
struct Mapping<'a> {
    coordinates: &'a str,
    rounding: &'a str,
}

impl Mapping<'_> {
    /// True if scaling up by `factor` is repetition. Position `i` of the result is element `k` of the operand and copy `j` of
    /// it: `i = k * factor + j`. Its coordinate is `k + j / factor`, or with half pixels `k + (j + 1/2) / factor - 1/2`,
    /// and must round to `k` for every `j < factor`.
    fn repeats(&self, factor: usize) -> bool {
        match (self.coordinates, self.rounding) {
            ("asymmetric", "floor") => true,
            // The offset lies in (-1/2, 1/2).
            (
                "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric",
                "round_prefer_floor" | "round_prefer_ceil",
            ) => true,
            // The offset is 0 or 1/2.
            ("asymmetric", "round_prefer_floor") => factor <= 2,
            _ => factor == 1,
        }
    }
}

pub(super) fn upsample(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    nearest(site)?;
    let scales = match site.opset() {
        ..9 => site.attrs.floats("scales")?.map(<[f32]>::to_vec),
        _ => site.float_list(1, "`scales`")?,
    };
    let scales = scales.ok_or_else(|| Fault::shape("`scales` is missing"))?;
    let factors: Vec<f64> = scales.into_iter().map(f64::from).collect();
    apply(site, x, &factors, &Mapping { coordinates: "asymmetric", rounding: "floor" })
}

fn nearest(site: &mut Site) -> Outcome<()> {
    match site.attrs.string("mode")?.unwrap_or("nearest") {
        "nearest" => Ok(()),
        mode => Err(Fault::unsupported(format!("`mode` = {mode:?} is not supported")).help("use mode nearest")),
    }
}

pub(super) fn resize(site: &mut Site) -> Outcome<ValueId> {
    let x = site.operand(0)?;
    nearest(site)?;
    let dims = site.dims(x);
    if site.opset() < 11 {
        let scales = site.float_list(1, "`scales`")?.ok_or_else(|| Fault::shape("`scales` is missing"))?;
        let factors: Vec<f64> = scales.into_iter().map(f64::from).collect();
        return apply(site, x, &factors, &Mapping { coordinates: "asymmetric", rounding: "floor" });
    }
    // These concern interpolation, and coordinates that are refused.
    site.attrs.ignore(&["antialias", "cubic_coeff_a", "exclude_outside", "extrapolation_value"]);
    site.optional(1);
    if site.attrs.string("keep_aspect_ratio_policy")?.unwrap_or("stretch") != "stretch" {
        return Err(Fault::unsupported("`keep_aspect_ratio_policy` is not supported"));
    }
    let mapping = Mapping {
        coordinates: site.attrs.string("coordinate_transformation_mode")?.unwrap_or("half_pixel"),
        rounding: site.attrs.string("nearest_mode")?.unwrap_or("round_prefer_floor"),
    };
    let axes = match site.attrs.ints("axes")? {
        Some(axes) => Site::axes(axes, dims.len())?,
        None => (0..dims.len()).collect(),
    };
    let scales = site.float_list(2, "`scales`")?.filter(|s| !s.is_empty());
    let sizes = site.int_list(3, "`sizes`")?.filter(|s| !s.is_empty());
    let given: Vec<f64> = match (scales, sizes) {
        (Some(scales), None) => scales.into_iter().map(f64::from).collect(),
        (None, Some(sizes)) if sizes.len() == axes.len() => {
            sizes.iter().zip(&axes).map(|(&s, &a)| s as f64 / dims[a] as f64).collect()
        }
        _ => return Err(Fault::shape("there must be either `scales` or `sizes`")),
    };
    if given.len() != axes.len() {
        return Err(Fault::shape(format!("{} factors for {} dimensions", given.len(), axes.len())));
    }
    let mut factors = vec![1.0; dims.len()];
    axes.iter().zip(given).for_each(|(&a, f)| factors[a] = f);
    apply(site, x, &factors, &mapping)
}

fn apply(site: &mut Site, x: ValueId, factors: &[f64], mapping: &Mapping) -> Outcome<ValueId> {
    if factors.len() != site.ty(x).rank() {
        return Err(Fault::shape(format!("{} factors for {} dimensions", factors.len(), site.ty(x).rank())));
    }
    let whole = |&f: &f64| {
        let n = f.round();
        // Beyond this no result is of a sensible size.
        let fits = n == f && (1.0..=65536.0).contains(&n);
        fits.then_some(n as usize).filter(|&n| mapping.repeats(n))
    };
    let times: Option<Vec<usize>> = factors.iter().map(whole).collect();
    let Some(times) = times else {
        let (coordinates, rounding) = (mapping.coordinates, mapping.rounding);
        let message = format!("resizing by {factors:?} with coordinates {coordinates}, rounding {rounding}");
        return Err(Fault::unsupported(message).help("only repetition of elements by whole factors is supported"));
    };
    layout::repeat(site, x, &times, Repeat::Elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the coordinates and roundings as ONNX defines them.
    #[test]
    fn repetition_is_what_the_coordinates_say() {
        for coordinates in ["asymmetric", "half_pixel", "align_corners"] {
            for rounding in ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"] {
                for factor in 1..6usize {
                    let repeats = (0..8 * factor).all(|i| {
                        let (scale, i) = (factor as f64, i as f64);
                        let x = match coordinates {
                            "asymmetric" => i / scale,
                            "half_pixel" => (i + 0.5) / scale - 0.5,
                            _ => i * 7.0 / (8.0 * scale - 1.0),
                        };
                        let at = match rounding {
                            "floor" => x.floor(),
                            "ceil" => x.ceil(),
                            "round_prefer_floor" => (x - 0.5).ceil(),
                            _ => (x + 0.5).floor(),
                        };
                        at.clamp(0.0, 7.0) == (i / scale).floor()
                    });
                    let claimed = Mapping { coordinates, rounding }.repeats(factor);
                    assert!(repeats || !claimed, "{coordinates} {rounding} {factor}");
                }
            }
        }
    }
}
