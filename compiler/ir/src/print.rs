//! The graph as text (`.qir`). The grammar is in the header of [`mod@crate::parse`]; the two keep the laws
//!
//! ```text
//! parse(print(g)) == g        print(parse(t)) == t for a printed t
//! ```
//!
//! One line an operation, result types only, attributes in the order of the schema without defaults, floats in the
//! shortest form that reads back. Values keep their names, so that two dumps of one model can be compared line by line.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;

use crate::attrs::Attr;
use crate::graph::{Graph, NodeId, ValueId, Vertex};
use crate::name::{Name, Quoted};
use crate::tensor::{Data, Tensor};
use crate::types::{Elem, Type, Uniform};

/// Constants of up to this many elements are written inline unless the caller says otherwise.
pub const INLINE: usize = 16;

/// Per-axis types with more scales than this are written once, as an alias.
const ALIAS: usize = 4;

/// What becomes of constants with more elements than [`Options::inline`].
pub enum Large<'a> {
    /// They are inline as well.
    Inline,
    /// They are left out; the text is for reading only.
    Elide,
    /// They go to a side file named by their contents, by this function of name and bytes. Equal constants share a file.
    File(&'a mut dyn FnMut(&str, &[u8]) -> io::Result<()>),
}

/// How to print.
pub struct Options<'a> {
    /// Greatest number of elements of a constant that is always inline.
    pub inline: usize,
    /// What becomes of larger ones.
    pub large: Large<'a>,
}

/// The whole graph as one text, all constants inline.
pub fn print(graph: &Graph) -> String {
    print_with(graph, Options { inline: INLINE, large: Large::Inline }).unwrap_or_default()
}

/// The graph as text. Fails only where a side file cannot be written.
pub fn print_with(graph: &Graph, mut options: Options) -> io::Result<String> {
    let aliases = Aliases::of(graph);
    let mut out = String::new();
    for (name, u) in &aliases.0 {
        line(&mut out, format_args!("!{} = {u}", Name(name)));
    }
    for (fact, name, numbers) in graph.metadata().rows() {
        line(&mut out, format_args!("meta {} %{} = {numbers:?}", fact.name(), Name(name)));
    }
    let inputs = graph.inputs().iter().map(|&v| format!("%{}: {}", Name(graph.name_of(v)), aliases.ty(graph.ty(v))));
    let outputs = graph.outputs().iter().map(|&v| aliases.ty(graph.ty(v)).to_string());
    let (inputs, outputs) = (join(inputs), join(outputs));
    line(&mut out, format_args!("graph @{}({inputs}) -> ({outputs}) {{", Name(&graph.name)));
    for (v, tensor) in graph.constants() {
        let contents = constant(tensor, &mut options)?;
        let (name, ty) = (Name(graph.name_of(v)), aliases.ty(graph.ty(v)));
        line(&mut out, format_args!("  const @{name} : {ty} = {contents}"));
    }
    let order = graph.order();
    for &n in &order {
        line(&mut out, format_args!("  {}", NodeText { graph, aliases: &aliases, node: n }));
    }
    if order.len() < graph.node_count() {
        let done: std::collections::HashSet<_> = order.into_iter().collect();
        let nodes = graph.net.node_indices().filter(|&i| matches!(graph.net[i], Vertex::Node(_))).map(NodeId);
        for node in nodes.filter(|n| !done.contains(n)) {
            line(&mut out, format_args!("  {}  // on a cycle", NodeText { graph, aliases: &aliases, node }));
        }
    }
    let returned = join(graph.outputs().iter().map(|&v| reference(graph, v)));
    line(&mut out, format_args!("  return{}{returned}", if returned.is_empty() { "" } else { " " }));
    out.push_str("}\n");
    Ok(out)
}

/// One operation as its line in the text, aliases spelled out.
pub fn node_text(graph: &Graph, node: NodeId) -> String {
    NodeText { graph, aliases: &Aliases(Vec::new()), node }.to_string()
}

/// The graph for reading: large constants are left out.
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = print_with(self, Options { inline: INLINE, large: Large::Elide });
        f.write_str(&text.unwrap_or_default())
    }
}

/// Names of the long per-axis types, in order of appearance: `q.` and the first value that has the type.
struct Aliases(Vec<(String, Arc<Uniform>)>);

impl Aliases {
    fn of(graph: &Graph) -> Aliases {
        let mut found: Vec<(String, Arc<Uniform>)> = Vec::new();
        let results = graph.order().into_iter().flat_map(|n| graph.results(n));
        let constants = graph.constants().map(|(v, _)| v);
        for v in graph.inputs().iter().copied().chain(constants).chain(results) {
            if let Some(u) = graph.ty(v).uniform().filter(|u| u.scales.len() > ALIAS)
                && !found.iter().any(|(_, known)| known == u)
            {
                found.push((format!("q.{}", graph.name_of(v)), u.clone()));
            }
        }
        Aliases(found)
    }

    fn ty<'a>(&'a self, ty: &'a Type) -> TypeText<'a> {
        TypeText { ty, aliases: self }
    }
}

struct TypeText<'a> {
    ty: &'a Type,
    aliases: &'a Aliases,
}

impl fmt::Display for TypeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Elem::Uniform(u) = &self.ty.elem
            && let Some((name, _)) = self.aliases.0.iter().find(|(_, known)| known == u)
        {
            f.write_str("tensor<")?;
            self.ty.dims.iter().try_for_each(|d| write!(f, "{d}x"))?;
            return write!(f, "!{}>", Name(name));
        }
        self.ty.fmt(f)
    }
}

struct NodeText<'a> {
    graph: &'a Graph,
    aliases: &'a Aliases,
    node: NodeId,
}

impl fmt::Display for NodeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (graph, node) = (self.graph, self.graph.node(self.node));
        let results = graph.results(self.node);
        let operands = join(graph.operands(self.node).iter().map(|&v| reference(graph, v)));
        let names = join(results.iter().map(|&v| reference(graph, v)));
        write!(f, "{names} = {}({operands})", node.op.name())?;
        let mut separator = " {";
        for (name, value) in node.attrs.given() {
            write!(f, "{separator}{name} = ")?;
            match value {
                Attr::Int(v) => write!(f, "{v}")?,
                Attr::Ints(v) => write!(f, "{v:?}")?,
                Attr::Float(v) => write!(f, "{v:?}")?,
                Attr::Bool(v) => write!(f, "{v}")?,
                Attr::Format(v) => write!(f, "{v}")?,
                Attr::Function(v) => write!(f, "\"{}\"", v.text())?,
            }
            separator = ", ";
        }
        f.write_str(if separator == ", " { "} : " } else { " : " })?;
        f.write_str(&join(results.iter().map(|&v| self.aliases.ty(graph.ty(v)).to_string())))?;
        match &node.origin {
            Some(o) => write!(f, " loc({} {} {})", Quoted(&o.name), Name(&o.op), o.opset),
            None => Ok(()),
        }
    }
}

fn reference(graph: &Graph, v: ValueId) -> String {
    let sigil = if graph.constant(v).is_some() { '@' } else { '%' };
    format!("{sigil}{}", Name(graph.name_of(v)))
}

fn constant(tensor: &Tensor, options: &mut Options) -> io::Result<String> {
    let small = tensor.data.len() <= options.inline;
    match &mut options.large {
        Large::Elide if !small => Ok("dense<...> // elided".to_string()),
        Large::File(write) if !small => {
            let bytes = tensor.data.to_bytes();
            let name = format!("{:032x}.bin", content_hash(&bytes));
            write(&name, &bytes)?;
            Ok(format!("file<\"{name}\">"))
        }
        Large::Inline | Large::Elide | Large::File(_) => Ok(dense(&tensor.data)),
    }
}

/// From so many elements on, a constant whose elements are all the same is printed as one.
const MANY: usize = 64;

/// Elements as an inline constant.
pub fn dense(data: &Data) -> String {
    crate::for_data!(data, v => match v.first() {
        Some(first) if v.len() >= MANY && v.iter().all(|x| x == first) => {
            let text = format!("{first:?}");
            // Zeros of both signs are equal.
            let same = !text.ends_with("0.0") || v.iter().all(|x| format!("{x:?}") == text);
            if same { format!("dense<{text}>") } else { format!("dense<{v:?}>") }
        }
        _ => format!("dense<{v:?}>"),
    })
}

/// Names a side file: FNV-1a (Fowler, Noll, Vo) in 128 bits, eight bytes a step, over length and contents.
fn content_hash(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain([&last]).map(|w| u64::from_le_bytes(*w)).chain([bytes.len() as u64]);
    words.fold(OFFSET, |h, w| (h ^ u128::from(w)).wrapping_mul(PRIME))
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn line(out: &mut String, text: fmt::Arguments) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}
