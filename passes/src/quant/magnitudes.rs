//! Magnitudes of 16 bits: `sqrt(a^2 + b^2)`, as of spectra, whose squares span twice the decades that the magnitudes do. A second way
//! has codes of its own for small ones, and the greater of both counts.
//!
//! ```text
//! %y = nn.sqrt(%a^2 + %b^2)
//! // becomes, T being a sixteenth of the greatest |a| and |b|
//! %high = nn.thresholded_relu(%y) {alpha = T}                       // 0 where small ones are
//! %low  = nn.sqrt(clip(%a, -T, T)^2 + clip(%b, -T, T)^2)            // exact up to T, and never greater than %y
//! %y'   = %high + nn.relu(%low - %high)
//! ```

use qcc_ir::{Attrs, Change, Edit, Elem, Format, Graph, NodeId, Opcode, Range, Type, ValueId, attr};

use crate::quant::precision::Wanted;
use crate::rewrite::{origin_of, produced_by, scalar};

/// The range of small parts is this of the whole.
const SMALL: f32 = 1.0 / 16.0;

/// Rewrites the magnitudes that are to have more than 8 bits.
pub(crate) fn split(edit: &mut Edit, wanted: &Wanted) {
    let fine = |format: Option<&Format>| format.is_some_and(|format| !format.fits_byte());
    if !fine(wanted.others()) {
        return;
    }
    for n in edit.graph().order() {
        let g = edit.graph();
        let y = g.result(n);
        let Some(magnitude) = Magnitude::read(g, n).filter(|m| fine(wanted.value(m.sum)) && fine(wanted.value(y)))
        else {
            continue;
        };
        let Some(mut change) = edit.begin(format!("assign-scales: small magnitudes of %{}", g.name_of(y))) else {
            return;
        };
        magnitude.split(&mut change, n);
    }
}

/// The square root of a sum of two squares.
struct Magnitude {
    parts: [(ValueId, NodeId); 2],
    sum: ValueId,
    /// Greatest absolute value of the parts.
    extent: f32,
}

impl Magnitude {
    fn read(g: &Graph, n: NodeId) -> Option<Magnitude> {
        if g.op(n) != Opcode::Sqrt {
            return None;
        }
        let sum = g.operands(n)[0];
        let add = produced_by(g, sum, Opcode::Add)?;
        let [a, b] = g.operands(add)[..] else { return None };
        let parts = [square(g, a)?, square(g, b)?];
        let same = parts.iter().all(|&(x, _)| g.ty(x).dims == g.ty(sum).dims);
        let extent = parts.iter().filter_map(|&(x, _)| range(g, x)).map(|r| r.max.abs().max(r.min.abs()));
        let extent = extent.reduce(f32::max).filter(|&e| e.is_normal() && range(g, g.result(n)).is_some())?;
        same.then_some(Magnitude { parts, sum, extent })
    }

    fn split(&self, change: &mut Change, n: NodeId) {
        let g = change.graph();
        let (y, small) = (g.result(n), self.extent * SMALL);
        let (name, origin, dims) = (g.name_of(y).to_string(), origin_of(g, y), g.ty(y).dims.clone());
        let readers = g.uses(y);
        let whole = range(g, y).unwrap_or(Range { min: 0.0, max: self.extent });
        let above = |max: f32| Range { min: 0.0, max };
        let add = |change: &mut Change, op: Opcode, operands: &[ValueId], attrs: Attrs, suffix: &str, range: Range| {
            let ty = Type { dims: dims.clone(), elem: Elem::Calibrated(range) };
            change.add(op, operands, attrs, &format!("{name}.{suffix}"), ty, origin.clone())
        };
        let mut squares = Vec::with_capacity(2);
        for (x, square) in self.parts {
            let ends = Range { min: -small, max: small };
            let clip = Attrs::new(Opcode::Clip).with(attr::MIN, ends.min).with(attr::MAX, ends.max);
            let x = add(change, Opcode::Clip, &[x], clip, "part", ends);
            let (op, attrs) = (change.graph().op(square), change.graph().node(square).attrs.clone());
            let operands = match op {
                Opcode::Mul => vec![x, x],
                _ => [x].into_iter().chain(change.graph().operands(square)[1..].iter().copied()).collect(),
            };
            squares.push(add(change, op, &operands, attrs, "square", above(small * small)));
        }
        let plain = |op: Opcode| Attrs::new(op);
        let sum = add(change, Opcode::Add, &squares, plain(Opcode::Add), "squares", above(2.0 * small * small));
        let greatest = small * std::f32::consts::SQRT_2;
        let low = add(change, Opcode::Sqrt, &[sum], plain(Opcode::Sqrt), "low", above(greatest));
        let threshold = Attrs::new(Opcode::ThresholdedRelu).with(attr::ALPHA, small);
        let high = add(change, Opcode::ThresholdedRelu, &[y], threshold, "high", whole.with_zero());
        let between = Range { min: -whole.max.max(greatest), max: greatest };
        let beyond = add(change, Opcode::Sub, &[low, high], plain(Opcode::Sub), "beyond", between);
        let beyond = add(change, Opcode::Relu, &[beyond], plain(Opcode::Relu), "rest", above(greatest));
        let new = add(change, Opcode::Add, &[high, beyond], plain(Opcode::Add), "all", whole.with_zero());
        readers.into_iter().for_each(|(reader, i)| change.set_operand(reader, i, new));
        let outputs = change.graph().outputs().iter().map(|&o| if o == y { new } else { o }).collect();
        change.set_outputs(outputs);
        change.rename(y, &format!("{name}.whole"));
        change.rename(new, &name);
    }
}

/// What `v` is the square of, and the node that makes it.
fn square(g: &Graph, v: ValueId) -> Option<(ValueId, NodeId)> {
    let n = g.producer(v)?;
    let operands = g.operands(n);
    let is_square = match g.op(n) {
        Opcode::Mul => operands[0] == operands[1],
        Opcode::Pow => scalar(g, operands[1]) == Some(2.0),
        _ => false,
    };
    is_square.then_some((operands[0], n))
}

fn range(g: &Graph, v: ValueId) -> Option<Range> {
    match g.ty(v).elem {
        Elem::Calibrated(range) => Some(range),
        _ => None,
    }
}
