//! Names in messages: passes give values that they make the names of those that they are made of, with suffixes. A user knows the
//! model's names only.

use std::collections::HashSet;

use qcc_ir::{Builder, Def, Graph};

use crate::Error;

/// Gives the outputs of a graph the names of those of the model, which a value inside may have taken: `y.q` beside an output `y`.
pub(super) fn name_outputs(graph: &mut Graph, model: &Graph) {
    for (i, &own) in model.outputs().iter().enumerate() {
        let name = model.name_of(own);
        let Some(&v) = graph.outputs().get(i) else { return };
        let is_free = matches!(graph.def(v), Def::Node(..)) && !graph.outputs()[..i].contains(&v);
        let other = graph.find(name);
        let is_interface = |o| graph.inputs().contains(&o) || graph.outputs().contains(&o);
        if !is_free || graph.name_of(v) == name || other.is_some_and(is_interface) {
            continue;
        }
        let mut builder = Builder::new(graph);
        if let Some(other) = other {
            builder.rename(other, &format!("{name}.inner"));
        }
        builder.rename(v, name);
    }
}

/// The error with the model's own names in place of those that passes made of them.
pub(super) fn renamed(error: Error, names: &HashSet<String>) -> Error {
    error.with_texts(|text| in_own_words(text, names))
}

/// A text in which `%conv1.q.moved` reads `%conv1`, where the model has a value `conv1` and none of the whole name.
fn in_own_words(text: &str, names: &HashSet<String>) -> String {
    let mut words = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['%', '@']) {
        let (before, named) = rest.split_at(at + 1);
        words.push_str(before);
        let ends = |c: char| c.is_whitespace() || ",()`\"';{}<>=".contains(c);
        let length = named.find(ends).unwrap_or(named.len());
        // A name does not end like a sentence.
        let length = named[..length].trim_end_matches([':', '.']).len();
        let (name, after) = named.split_at(length);
        words.push_str(known(name, names).unwrap_or(name));
        rest = after;
    }
    words + rest
}

/// The longest name of the model that a name is made of.
fn known<'a>(name: &'a str, names: &HashSet<String>) -> Option<&'a str> {
    let prefixes = std::iter::successors(Some(name), |n| n.rsplit_once('.').map(|(prefix, _)| prefix));
    prefixes.take_while(|n| !n.is_empty()).find(|n| names.contains(*n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_of_passes_go() {
        let names: HashSet<String> = ["wd", "layer1.conv", "x"].into_iter().map(str::to_string).collect();
        let text = |text| in_own_words(text, &names);
        assert_eq!(text("its weights @wd.q.moved.moved differ"), "its weights @wd differ");
        assert_eq!(text("%layer1.conv.nhwc: no form"), "%layer1.conv: no form");
        assert_eq!(text("%x and (%x.dq.1, %unknown.q) of 50 %."), "%x and (%x, %unknown.q) of 50 %.");
    }
}
