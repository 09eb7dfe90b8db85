//! Why linking fails.

/// Why an object cannot become a shared object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Not a relocatable ELF object that can be read.
    #[error("cannot read the object: {0}")]
    Object(String),
    /// Another machine than x86-64 and aarch64.
    #[error("objects for {0} are not supported")]
    Machine(String),
    /// A section that the shared object has no place for.
    #[error("section `{name}` {problem}")]
    Section {
        /// Name of the section.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A symbol that cannot be exported or placed.
    #[error("symbol `{name}` {problem}")]
    Symbol {
        /// Name of the symbol.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A relocation that cannot be settled while linking.
    #[error("relocation {kind} against `{symbol}` in `{place}` {problem}")]
    Relocation {
        /// Name of its type.
        kind: String,
        /// Symbol referred to.
        symbol: String,
        /// Function or section that refers.
        place: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file could not be laid out.
    #[error("cannot write the shared object: {0}")]
    Write(String),
}
