//! The derivatives of a small network against those of PyTorch, which `make_gradients.py` has stored.

use std::collections::HashMap;

use qcc_ir::{Data, Tensor, parse};

use crate::network::Network;
use crate::optimizer::Rule;
use crate::trainer::{Sample, Settings, Trainer};
use crate::update::{Rates, by_real_numbers};

const LOWERING: &str = "lower-to-int, layout, merge-requant, fuse-epilogue, prove-accumulators, check-integer-only";

/// Rows `name [numbers]`.
fn stored() -> HashMap<String, Vec<f64>> {
    let row = |line: &str| {
        let (name, list) = line.split_once(' ')?;
        let numbers = list.trim_matches(['[', ']']).split(", ").map(|x| x.parse().ok());
        Some((name.to_string(), numbers.collect::<Option<Vec<f64>>>()?))
    };
    include_str!("gradients.txt").lines().map(|line| row(line).expect("a row of the fixture")).collect()
}

#[test]
fn derivatives_are_those_of_pytorch() {
    let graph = parse(include_str!("network.qir"), &|name| Err(std::io::Error::other(name.to_string())))
        .expect("the fixture is a graph");
    let stored = stored();
    let floats = |name: &str| stored[name].iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let mut network = Network::new(&graph, LOWERING).expect("it can be trained");
    for (layer, name) in network.layers.iter_mut().zip(["w1", "w2", "w3"]) {
        assert_eq!(layer.name, name);
        layer.shadows = floats(&format!("{name}.shadows"));
    }
    let settings = Settings {
        rule: Rule::Adam,
        rates: Rates { weights: 0.0, scales: 0.0 },
        weights: crate::Weights { teacher: 1.0, labels: 0.0, temperature: 2.0 },
        reals: false,
        threads: 1,
    };
    let trainer = Trainer::new(network, settings).expect("it can be trained");
    let x = floats("x").into_iter().map(|q| (q - 128.0) * 0.02).collect();
    let sample = Sample { inputs: vec![Tensor::f32(&[1, 2, 5, 5], x)], label: None };
    let codes = trainer.outputs(std::slice::from_ref(&sample)).expect("it runs");
    assert_eq!(codes[0][0], Data::U8(stored["codes"].iter().map(|&q| q as u8).collect()));
    let (score, gradients) = trainer.gradients(&[(sample, vec![floats("target")])]).expect("it runs");
    assert!((score.loss - stored["loss"][0]).abs() < 1e-4, "{}", score.loss);
    let near = |name: &str, found: &[f32]| {
        let wanted = &stored[name];
        let size = wanted.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
        assert_eq!(found.len(), wanted.len(), "{name}");
        for (i, (&found, wanted)) in found.iter().zip(wanted).enumerate() {
            // Unrounded numbers are known to 1/64.
            assert!((f64::from(found) - wanted).abs() <= 0.02 * size, "{name}[{i}]: {found} for {wanted}");
        }
    };
    for (i, name) in ["w1", "w2", "w3"].into_iter().enumerate() {
        let [weights, bias, scales, ..] = by_real_numbers(trainer.network(), i, &gradients);
        near(name, &weights);
        near(&format!("{name}.bias"), &bias);
        near(&format!("{name}.scales"), &scales);
    }
    let learned: Vec<&str> = trainer.network().scales.iter().map(|s| s.name.as_str()).collect();
    for name in ["hidden", "sum", "mean", "logits"] {
        let at = learned.iter().position(|l| *l == name).unwrap_or_else(|| panic!("{name} is learned: {learned:?}"));
        near(name, &[gradients.scales[at] as f32]);
    }
}
