//! The graph: types, operator table, edits, verifier, printer, parser, diagnostics
