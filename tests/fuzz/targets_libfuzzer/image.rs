#![no_main]
#![allow(missing_docs, dead_code)]

#[path = "../mutate.rs"]
mod mutate;
#[path = "../structured.rs"]
mod structured;
#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (targets::find("image").run)(input);
});
