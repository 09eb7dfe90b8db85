//! What passes find out about values and leave to later ones, beside what is in types: rows of numbers by kind and name.
//!
//! ```text
//! meta seen %conv1 = [-1.5, 2.25]
//! meta channel_means %conv1 = [0.5, -0.125]
//! graph @net(..
//! ```
//!
//! They are part of the graph and of its text, so that a pipeline goes on from a dump as it would have gone on from the graph.
//! Rows are kept by name: a value that they are about may be gone. A pass that has read the last use of a kind removes it, and an
//! integer graph has none.

use std::collections::BTreeMap;

/// What a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// The model had a value of this name when it was read, and a range table names it. No numbers.
    SourceName,
    /// Factors by which the channels of the value were scaled; the range table of the user repeats them.
    ChannelFactors,
    /// The least and the greatest value that samples showed, infinite where that is not known, and the standard deviation where it is
    /// known; no numbers where the range is not from samples.
    Seen,
    /// The least and the greatest value that 4 bits are to cover, by what samples showed.
    Coarse,
    /// What synthesized samples showed: their number, then mean, variance, least and greatest value of each channel.
    Synthesized,
    /// Mean of each channel.
    ChannelMeans,
    /// The least and the greatest integer of the type in which the model's file declares a real input: it takes integers, which stand for
    /// themselves.
    Declared,
    /// The model takes or gives codes of 8 bits with a sign by this name. No numbers.
    SignedCodes,
}

impl Fact {
    /// All kinds.
    pub const ALL: [Fact; 8] = [
        Fact::SourceName,
        Fact::ChannelFactors,
        Fact::Seen,
        Fact::Coarse,
        Fact::Synthesized,
        Fact::ChannelMeans,
        Fact::Declared,
        Fact::SignedCodes,
    ];

    /// Spelling in the text.
    pub fn name(self) -> &'static str {
        match self {
            Fact::SourceName => "source_name",
            Fact::ChannelFactors => "channel_factors",
            Fact::Seen => "seen",
            Fact::Coarse => "coarse",
            Fact::Synthesized => "synthesized",
            Fact::ChannelMeans => "channel_means",
            Fact::Declared => "declared",
            Fact::SignedCodes => "signed_codes",
        }
    }

    /// The kind with this spelling.
    pub fn find(name: &str) -> Option<Fact> {
        Fact::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// Rows of numbers by kind and name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata(BTreeMap<Fact, BTreeMap<String, Vec<f64>>>);

impl Metadata {
    /// The numbers of a row.
    pub fn get(&self, fact: Fact, name: &str) -> Option<&[f64]> {
        self.0.get(&fact)?.get(name).map(Vec::as_slice)
    }

    /// All rows of a kind, in the order of names.
    pub fn of(&self, fact: Fact) -> impl Iterator<Item = (&str, &[f64])> {
        self.0.get(&fact).into_iter().flatten().map(|(name, numbers)| (name.as_str(), numbers.as_slice()))
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = (Fact, &str, &[f64])> {
        Fact::ALL.into_iter().flat_map(|fact| self.of(fact).map(move |(name, numbers)| (fact, name, numbers)))
    }

    /// True if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows().next().is_none()
    }

    /// Adds or replaces a row; gives the numbers of the one before.
    pub(crate) fn set(&mut self, fact: Fact, name: &str, numbers: Vec<f64>) -> Option<Vec<f64>> {
        self.0.entry(fact).or_default().insert(name.to_string(), numbers)
    }

    /// Removes all rows of a kind.
    pub(crate) fn clear(&mut self, fact: Fact) {
        self.0.remove(&fact);
    }
}
