//! A target of cargo-fuzz: the one of [`targets::TARGETS`] whose name the program has.
#![no_main]
#![allow(dead_code)]

mod mutate;
mod structured;
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (targets::find(env!("CARGO_BIN_NAME")).run)(input);
});
