//! States: outputs that a host feeds back as inputs of the next call, as it does with recurrent networks. Such a pair has one type, so
//! that what was given can be taken as it is.
//!
//! A pair is named by the user, or it is known by its names: those of the input and of the output are alike but for words that say
//! which of both it is, and one of the words that they share says that it is a state. `state` and `stateN`, `h0` and `hn`,
//! `hidden_in` and `hidden_out`, `rnn.state.prev` and `rnn.state.next` are pairs; `image_in` and `image_out` are none.

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Diags, Graph, ValueId};

/// Words that say which of a pair it is.
const SIDES: &[&str] = &[
    "in", "input", "i", "prev", "previous", "past", "old", "init", "initial", "last", "out", "output", "o", "n",
    "next", "new", "present", "cur", "current", "updated", "final",
];

/// Words that say that it is a state.
const STATES: &[&str] = &[
    "state", "states", "h", "c", "hx", "cx", "hidden", "cell", "mem", "memory", "cache", "carry", "rnn", "lstm", "gru",
];

/// Pairs of an input and an output: those that are `named`, and those that are known by their names.
pub(crate) fn pairs(g: &Graph, named: &[(String, String)]) -> Result<Vec<(ValueId, ValueId)>, Diags> {
    let mut pairs = Vec::new();
    for (input, output) in named {
        let find = |values: &[ValueId], name: &str| values.iter().copied().find(|&v| g.name_of(v) == name);
        let (Some(x), Some(y)) = (find(g.inputs(), input), find(g.outputs(), output)) else {
            let message = format!("`{input}` and `{output}` are no state: those are an input and an output");
            let list = |values: &[ValueId]| values.iter().map(|&v| g.name_of(v)).collect::<Vec<_>>().join(", ");
            let help = format!("inputs are {}; outputs are {}", list(g.inputs()), list(g.outputs()));
            return Err(Diag::new(Code::FLAGS, message).help(help).into());
        };
        if g.ty(x).dims != g.ty(y).dims {
            let message = format!("`{input}` {:?} and `{output}` {:?} differ", g.ty(x).dims, g.ty(y).dims);
            return Err(Diag::new(Code::FLAGS, message).help("a state has the same shape on both sides").into());
        }
        pairs.push((x, y));
    }
    for &x in g.inputs() {
        let only = |alike: fn(&str, &str) -> bool| {
            let fits = |&y: &ValueId| y != x && g.ty(y).dims == g.ty(x).dims && alike(g.name_of(x), g.name_of(y));
            let mut found = g.outputs().iter().copied().filter(fits);
            found.next().filter(|_| found.next().is_none())
        };
        if let Some(y) = only(alike).or_else(|| only(numbered))
            && pairs.iter().all(|&(a, b)| a != x && b != y)
        {
            pairs.push((x, y));
        }
    }
    Ok(pairs)
}

/// Whether two names are those of a pair.
fn alike(input: &str, output: &str) -> bool {
    stem(input).is_some_and(|words| Some(words) == stem(output))
}

/// Whether they are, where a 0 stands for before and a 1 for after.
fn numbered(input: &str, output: &str) -> bool {
    let without =
        |name: &str, digit: &str| stem(name).map(|words| words.into_iter().filter(|w| w != digit).collect::<Vec<_>>());
    let input = without(input, "0");
    input.is_some() && [stem(output), without(output, "1")].contains(&input)
}

/// The words of a name that do not say which of a pair it is; `None` if they name no state.
fn stem(name: &str) -> Option<Vec<String>> {
    let words = words(name);
    let own: Vec<String> = words.iter().filter(|w| !SIDES.contains(&w.as_str())).cloned().collect();
    own.iter().any(|w| STATES.contains(&w.as_str())).then_some(own)
}

/// Words: letters, or digits, without case. A capital letter begins one, and the `n` of `hn` is one.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = '_';
    for c in name.chars() {
        let begins = !before.is_ascii_alphanumeric()
            || c.is_ascii_uppercase() && !before.is_ascii_uppercase()
            || c.is_ascii_digit() != before.is_ascii_digit();
        before = c;
        if !c.is_ascii_alphanumeric() {
            continue;
        }
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(c.to_ascii_lowercase());
        }
    }
    let split = |word: String| match word.strip_suffix('n') {
        Some(own) if STATES.contains(&own) => vec![own.to_string(), "n".to_string()],
        _ => vec![word],
    };
    words.into_iter().flat_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_known_by_their_names() {
        for (input, output) in [
            ("state", "stateN"),
            ("h0", "hn"),
            ("c_0", "c_n"),
            ("hidden_in", "hidden_out"),
            ("h", "h_out"),
            ("rnn.state.prev", "rnn.state.next"),
            ("pastState", "newState"),
            ("lstm_h_input", "lstm_h_output"),
            ("in_cache3", "out_cache3"),
        ] {
            assert!(
                alike(input, output) || numbered(input, output),
                "{input} {output}: {:?} {:?}",
                stem(input),
                stem(output)
            );
        }
        for (input, output) in
            [("image_in", "image_out"), ("input", "output"), ("h0", "cn"), ("cache2_in", "cache3_out"), ("x", "y")]
        {
            assert!(!alike(input, output) && !numbered(input, output), "{input} {output}");
        }
    }
}
