//! A training that was ended at any step and goes on from its checkpoint gives the same bits as one that was not; a checkpoint of something else is refused; and
//! what is held out is never worse than at the start.

mod common;

use std::ops::ControlFlow;

use qcc_ir::Diag;
use qcc_train::{
    Augment, Checkpoint, Event, Material, Network, Outcome, Plan, Rates, Rule, Sample, Scheme, Settings, Teacher,
    Trainer, Watch, Weights, run,
};

use common::networks::{inputs, network};
use common::quantized;

/// Seed of a small classifier.
const SEED: u64 = 6;

const PLAN: Plan = Plan {
    epochs: 3,
    batch: 8,
    seed: 5,
    augment: Augment { flip: true, shift: true },
    patience: 0,
    halvings: 0,
    measures: false,
    from_scratch: false,
    scheme: Scheme::Rounding,
};

/// Ends after a step, and keeps the last checkpoint.
struct Until {
    last: usize,
    state: Vec<u8>,
    best: Vec<bool>,
}

impl Watch for Until {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Step(step, ..) if *step == self.last => ControlFlow::Break(()),
            Event::Evaluated { best, .. } => {
                self.best.push(*best);
                ControlFlow::Continue(())
            }
            Event::Step(..) => ControlFlow::Continue(()),
        }
    }

    fn checkpoint(&mut self, state: &dyn Fn() -> Checkpoint, ends: bool) -> Result<(), Diag> {
        if ends {
            self.state = state().to_bytes();
        }
        Ok(())
    }
}

/// Trains until a step, perhaps from a checkpoint.
fn train(last: usize, resumed: Option<&[u8]>, digest: [u8; 32], rule: Rule) -> Result<(Outcome, Until), Diag> {
    train_by((Scheme::Rounding, false), last, resumed, digest, rule)
}

/// With the same network as a teacher that learns too, from labels, while the weights are drawn anew, or with one that stays as it is.
fn train_by(
    (scheme, joint): (Scheme, bool),
    last: usize,
    resumed: Option<&[u8]>,
    digest: [u8; 32],
    rule: Rule,
) -> Result<(Outcome, Until), Diag> {
    let float = network(SEED);
    let (graph, lowering) = quantized(&float, SEED, ["4", "4"]);
    let settings = Settings {
        rule,
        rates: Rates { weights: if rule == Rule::Sgd { 1e-3 } else { 1e-2 }, scales: 5e-3 },
        weights: Weights::default(),
        reals: false,
        threads: 2,
    };
    let mut trainer = Trainer::new(Network::new(&graph, &lowering)?, settings)?;
    let samples = inputs(77, 24);
    let get = |i: usize| Ok(Sample { inputs: samples[i].clone(), label: joint.then_some(i as i64 % 2) });
    let material = Material { count: samples.len(), get: &get, images: vec![Some(false)] };
    let plan = Plan { scheme, from_scratch: joint, ..PLAN };
    let mut teacher = Teacher::new(&float);
    if joint {
        let (graph, lowering) = quantized(&float, SEED, ["8", "8"]);
        let weights = Weights { teacher: 0.0, labels: 1.0, temperature: 1.0 };
        teacher = teacher.joined(Trainer::new(Network::new(&graph, &lowering)?, Settings { weights, ..settings })?);
    }
    let mut until = Until { last, state: Vec::new(), best: Vec::new() };
    let outcome = run(&mut trainer, &mut teacher, &material, plan, resumed, digest, &mut until)?;
    Ok((outcome, until))
}

#[test]
fn resumed_trainings_give_the_same_bits() {
    for (scheme, rule) in [
        ((Scheme::Rounding, false), Rule::Adam),
        ((Scheme::Rounding, false), Rule::Sgd),
        ((Scheme::Intervals, false), Rule::Adam),
        ((Scheme::Noise(2), false), Rule::Adam),
        ((Scheme::Rounding, true), Rule::Adam),
    ] {
        let (_, whole) = train_by(scheme, usize::MAX, None, [1; 32], rule).expect("it trains");
        for step in [1, 4, 8] {
            let (outcome, part) = train_by(scheme, step, None, [1; 32], rule).expect("it trains");
            assert!(outcome.interrupted && outcome.steps == step);
            let (outcome, rest) = train_by(scheme, usize::MAX, Some(&part.state), [1; 32], rule).expect("it goes on");
            assert!(!outcome.interrupted);
            assert!(rest.state == whole.state, "{scheme:?}: after step {step} of {} other bits", outcome.steps);
        }
    }
}

#[test]
fn checkpoints_of_something_else_are_refused() {
    let (_, part) = train(2, None, [1; 32], Rule::Adam).expect("it trains");
    let refused = |bytes: &[u8], digest| train(usize::MAX, Some(bytes), digest, Rule::Adam).err().map(|d| d.message);
    assert!(refused(&part.state, [2; 32]).is_some_and(|m| m.contains("another model")));
    for cut in [0, 15, 60, part.state.len() - 1] {
        assert!(refused(&part.state[..cut], [1; 32]).is_some_and(|m| m.contains("not whole")), "{cut}");
    }
    let mut longer = part.state.clone();
    longer.push(0);
    assert!(refused(&longer, [1; 32]).is_some_and(|m| m.contains("not whole")));
}

#[test]
fn what_is_held_out_is_never_worse() {
    let (outcome, until) = train(usize::MAX, None, [1; 32], Rule::Adam).expect("it trains");
    assert!(outcome.best.loss <= outcome.start.loss && outcome.best.agreeing >= outcome.start.agreeing);
    assert_eq!(until.best.iter().any(|&b| b), outcome.best_step > 0);
    assert!(outcome.best_step == 0 || outcome.best.loss < outcome.start.loss);
}
