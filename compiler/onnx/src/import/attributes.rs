//! Attributes of one ONNX node. An attribute that nothing has asked for changes what the node means in a way that its
//! importer does not know, so it is refused at the end.

use std::collections::{HashMap, HashSet};

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, NodeProto, TensorProto};

use crate::fault::{Fault, Outcome};

/// The attributes of a node, and which of them were read.
pub(crate) struct Attributes<'a> {
    map: HashMap<&'a str, &'a AttributeProto>,
    twice: Option<&'a str>,
    seen: HashSet<&'static str>,
}

impl<'a> Attributes<'a> {
    /// None of them read.
    pub(crate) fn new(node: &'a NodeProto) -> Attributes<'a> {
        let mut map = HashMap::new();
        let mut twice = None;
        for a in &node.attribute {
            if map.insert(a.name.as_str(), a).is_some() {
                twice = Some(a.name.as_str());
            }
        }
        Attributes { map, twice, seen: HashSet::new() }
    }

    fn get(&mut self, name: &'static str, kind: AttributeType) -> Outcome<Option<&'a AttributeProto>> {
        self.seen.insert(name);
        let Some(&a) = self.map.get(name) else { return Ok(None) };
        if !a.ref_attr_name.is_empty() {
            return Err(Fault::unsupported(format!("attribute `{name}` refers to a function's attribute")));
        }
        match a.type_.enum_value() {
            // Old writers leave the type out.
            Ok(found) if found == kind || found == AttributeType::UNDEFINED => Ok(Some(a)),
            Ok(found) => Err(Fault::shape(format!("attribute `{name}` is {found:?}, not {kind:?}"))),
            Err(number) => Err(Fault::unsupported(format!("attribute `{name}` is of the unknown kind {number}"))),
        }
    }

    /// An integer.
    pub(crate) fn int(&mut self, name: &'static str) -> Outcome<Option<i64>> {
        Ok(self.get(name, AttributeType::INT)?.map(|a| a.i))
    }

    /// An integer that is 0 or 1.
    pub(crate) fn flag(&mut self, name: &'static str, default: bool) -> Outcome<bool> {
        match self.int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(other) => Err(Fault::shape(format!("attribute `{name}` is {other}, not 0 or 1"))),
        }
    }

    /// A float. What is added so that nothing is divided by zero is no less than zero.
    pub(crate) fn float(&mut self, name: &'static str) -> Outcome<Option<f32>> {
        let Some(x) = self.get(name, AttributeType::FLOAT)?.map(|a| a.f) else { return Ok(None) };
        let least = if name == "epsilon" { 0.0 } else { f32::NEG_INFINITY };
        if x.is_nan() || x < least || name == "epsilon" && x.is_infinite() {
            return Err(Fault::shape(format!("attribute `{name}` is {x:?}: the result would not be a number")));
        }
        Ok(Some(x))
    }

    /// A list of integers.
    pub(crate) fn ints(&mut self, name: &'static str) -> Outcome<Option<&'a [i64]>> {
        Ok(self.get(name, AttributeType::INTS)?.map(|a| a.ints.as_slice()))
    }

    /// A list of floats.
    pub(crate) fn floats(&mut self, name: &'static str) -> Outcome<Option<&'a [f32]>> {
        Ok(self.get(name, AttributeType::FLOATS)?.map(|a| a.floats.as_slice()))
    }

    /// A text.
    pub(crate) fn string(&mut self, name: &'static str) -> Outcome<Option<&'a str>> {
        let Some(a) = self.get(name, AttributeType::STRING)? else { return Ok(None) };
        let text = std::str::from_utf8(&a.s);
        text.map(Some).map_err(|_| Fault::shape(format!("attribute `{name}` is not a text")))
    }

    /// A list of texts.
    pub(crate) fn strings(&mut self, name: &'static str) -> Outcome<Option<Vec<String>>> {
        let Some(a) = self.get(name, AttributeType::STRINGS)? else { return Ok(None) };
        let texts: Result<Vec<String>, _> = a.strings.iter().map(|s| String::from_utf8(s.to_vec())).collect();
        texts.map(Some).map_err(|_| Fault::shape(format!("attribute `{name}` is not a list of texts")))
    }

    /// A tensor.
    pub(crate) fn tensor(&mut self, name: &'static str) -> Outcome<Option<&'a TensorProto>> {
        Ok(self.get(name, AttributeType::TENSOR)?.and_then(|a| a.t.as_ref()))
    }

    /// Passes over attributes that mean nothing at inference.
    pub(crate) fn ignore(&mut self, names: &[&'static str]) {
        self.seen.extend(names);
    }

    /// Refuses what was not read.
    pub(crate) fn finish(&self) -> Outcome<()> {
        if let Some(name) = self.twice {
            return Err(Fault::shape(format!("attribute `{name}` is given twice")));
        }
        let mut unread: Vec<_> = self.map.keys().filter(|n| !self.seen.contains(**n)).collect();
        unread.sort();
        match unread.first() {
            Some(name) => Err(Fault::unsupported(format!("attribute `{name}` is not supported"))),
            None => Ok(()),
        }
    }
}
