//! The one walk: order, lifetimes and their bound, faults, progress, threads; and that a domain can walk back.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use qcc_interp::{Domain, SampleState, Schedule, Statistics, Survey, Threads, UNWATCHED, execute, in_order};
use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Builder, Diag, Graph, Opcode, Tensor, Type, ValueId};

use crate::support::Random;

/// Reads of each step; slot `inputs + i` is the result of step `i`.
type Reads = Vec<Vec<usize>>;

fn schedule(inputs: usize, reads: &Reads, kept: &[usize]) -> Schedule {
    Schedule::new(inputs, reads.iter().enumerate().map(|(i, r)| (format!("step {i}"), r.clone())), kept)
}

/// A value is its slot; what happens to it is written down.
struct Ledger<'a> {
    reads: &'a Reads,
    bytes: &'a [usize],
    inputs: usize,
    now: usize,
    peak: usize,
    evaluated: Vec<usize>,
    /// Slots, with the step after which they were dropped.
    released: Vec<(usize, usize)>,
}

impl Domain for Ledger<'_> {
    type Value = usize;

    fn step(&mut self, step: usize, samples: &[SampleState<usize>]) -> Result<Vec<usize>, Diag> {
        for sample in samples {
            assert!(self.reads[step].iter().all(|&slot| sample.get(slot) == Ok(&slot)));
        }
        self.evaluated.push(step);
        self.now += self.bytes[self.inputs + step];
        self.peak = self.peak.max(self.now);
        Ok(vec![self.inputs + step; samples.len()])
    }

    fn release(&mut self, slot: usize) {
        self.now -= self.bytes[slot];
        self.released.push((slot, self.evaluated.len() - 1));
    }
}

#[test]
fn values_are_dropped_after_their_last_use_and_the_peak_is_known_before() {
    let r = Random::new(3);
    for _ in 0..200 {
        let (inputs, steps) = (r.size(1, 3), r.size(1, 12));
        let slots = inputs + steps;
        let reads: Reads = (0..steps).map(|i| (0..r.size(0, 3)).map(|_| r.size(0, inputs + i - 1)).collect()).collect();
        let bytes: Vec<usize> = (0..slots).map(|_| r.size(0, 100)).collect();
        let kept: Vec<usize> = (0..slots).filter(|_| r.size(0, 5) == 0).collect();
        let schedule = schedule(inputs, &reads, &kept);
        let now = bytes[..inputs].iter().sum();
        let mut ledger =
            Ledger { reads: &reads, bytes: &bytes, inputs, now, peak: now, evaluated: vec![], released: vec![] };
        let mut left = execute(&schedule, &mut ledger, vec![(0..inputs).collect()], UNWATCHED).unwrap();
        assert_eq!(ledger.evaluated, (0..steps).collect::<Vec<_>>());
        assert_eq!(ledger.peak, schedule.peak(|slot| bytes[slot], |_| 0));
        for slot in 0..slots {
            let readers = (0..steps).filter(|&i| reads[i].contains(&slot));
            let last = readers.max().or_else(|| slot.checked_sub(inputs)).filter(|_| !kept.contains(&slot));
            let dropped = ledger.released.iter().find(|d| d.0 == slot).map(|d| d.1);
            assert_eq!(dropped, last, "slot {slot} of {reads:?}, kept {kept:?}");
            assert_eq!(left[0].take(slot).is_ok(), last.is_none());
        }
    }
}

#[test]
fn a_workspace_counts_where_it_is() {
    // Two inputs of 8 bytes; the second step needs 100 beside the three values that are alive then.
    let schedule = schedule(2, &vec![vec![0, 1], vec![2]], &[3]);
    assert_eq!(schedule.peak(|_| 8, |_| 0), 24);
    assert_eq!(schedule.peak(|_| 8, |step| if step == 1 { 100 } else { 0 }), 8 + 8 + 100);
}

/// Sums of what a step reads and of its number; negative numbers cannot be read.
struct Sums<'a>(&'a Reads);

impl Domain for Sums<'_> {
    type Value = i64;

    fn step(&mut self, step: usize, samples: &[SampleState<i64>]) -> Result<Vec<i64>, Diag> {
        in_order(samples.iter().enumerate(), |(i, sample)| {
            let mut sum = step as i64;
            for &slot in &self.0[step] {
                sum += *sample.get(slot)?;
            }
            if sum < 0 { Err(Diag::new(Code::DATA, format!("sample {i}"))) } else { Ok(sum) }
        })
    }
}

#[test]
fn a_fault_names_its_step_and_its_first_sample() {
    let reads = vec![vec![0], vec![1], vec![2]];
    let inputs = [5, -2, 0, -9, -1].map(|x| vec![x]).to_vec();
    for threads in 1..=4 {
        let threads = Threads::start(threads).unwrap();
        let run = || execute(&schedule(1, &reads, &[3]), &mut Sums(&reads), inputs.clone(), UNWATCHED);
        let fault = threads.run(run).unwrap_err();
        assert_eq!((fault.message.as_str(), fault.place.node.as_deref()), ("sample 1", Some("step 0")));
    }
    let early = vec![vec![2], vec![1]];
    let fault = execute(&schedule(1, &early, &[]), &mut Sums(&early), vec![vec![0]], UNWATCHED).unwrap_err();
    assert_eq!((fault.code, fault.place.node.as_deref()), (Code::VERIFY, Some("step 0")));
}

#[test]
fn a_run_tells_how_far_it_is_and_can_be_ended() {
    let reads = vec![vec![0], vec![1], vec![2]];
    let told = std::sync::Mutex::new(Vec::new());
    let watch = |done: usize, of: usize| {
        told.lock().unwrap().push((done, of));
        if done == 2 { ControlFlow::Break(Diag::new(Code::DATA, "enough")) } else { ControlFlow::Continue(()) }
    };
    let fault = execute(&schedule(1, &reads, &[3]), &mut Sums(&reads), vec![vec![1]], &watch).unwrap_err();
    assert_eq!(fault.message, "enough");
    assert_eq!(*told.lock().unwrap(), [(1, 3), (2, 3)]);
}

#[test]
fn results_come_in_order_and_the_first_fault_counts_whatever_the_threads() {
    for count in [0, 1, 2, 50] {
        for threads in 1..=4 {
            let threads = Threads::start(threads).unwrap();
            let squares = threads.run(|| in_order(0..count, |i| Ok::<_, ()>(i * i))).unwrap();
            assert_eq!(squares, (0..count).map(|i| i * i).collect::<Vec<_>>());
            let fault = threads.run(|| in_order(0..count, |i| if i % 10 == 7 { Err(i) } else { Ok(i) }));
            assert_eq!(fault.err(), (count > 7).then_some(7));
        }
    }
}

/// Records each product and sum of numbers, and derives the gradient of the last result from what it recorded.
struct Tape<'a> {
    /// What a step does with the two slots that it reads.
    ops: &'a [Opcode],
    reads: &'a Reads,
    recorded: Vec<[f64; 2]>,
}

impl Domain for Tape<'_> {
    type Value = f64;

    fn step(&mut self, step: usize, samples: &[SampleState<f64>]) -> Result<Vec<f64>, Diag> {
        let sample = &samples[0];
        let (a, b) = (*sample.get(self.reads[step][0])?, *sample.get(self.reads[step][1])?);
        self.recorded.push([a, b]);
        Ok(vec![if self.ops[step] == Opcode::Mul { a * b } else { a + b }])
    }
}

impl Tape<'_> {
    fn gradient(&self, schedule: &Schedule) -> Vec<f64> {
        let mut gradient = vec![0.0; schedule.slots()];
        gradient[schedule.slots() - 1] = 1.0;
        for step in (0..schedule.steps()).rev() {
            let (g, [a, b]) = (gradient[schedule.result(step)], self.recorded[step]);
            let (da, db) = if self.ops[step] == Opcode::Mul { (g * b, g * a) } else { (g, g) };
            gradient[self.reads[step][0]] += da;
            gradient[self.reads[step][1]] += db;
        }
        gradient.truncate(schedule.inputs());
        gradient
    }
}

#[test]
fn a_domain_that_records_walks_back() {
    // z = (x y + x) (x y), so that dz/dx = 2 x y (y + 1) and dz/dy = x^2 (2 y + 1).
    let (ops, reads) = ([Opcode::Mul, Opcode::Add, Opcode::Mul], vec![vec![0, 1], vec![2, 0], vec![3, 2]]);
    let schedule = schedule(2, &reads, &[]);
    let mut tape = Tape { ops: &ops, reads: &reads, recorded: Vec::new() };
    execute(&schedule, &mut tape, vec![vec![3.0, 5.0]], UNWATCHED).unwrap();
    assert_eq!(tape.gradient(&schedule), [180.0, 99.0]);
}

/// `y = 2 x`.
fn doubled() -> Graph {
    let mut graph = Graph::new("doubled");
    let mut builder = Builder::new(&mut graph);
    let x = builder.add_input("x", Type::f32(&[1]));
    let y = builder.add_inferred(Opcode::Add, &[x, x], Attrs::new(Opcode::Add), "y", None).unwrap();
    builder.set_outputs(vec![y]);
    graph
}

/// Every number in the order in which it was seen.
#[derive(Default)]
struct Seen(Vec<f32>);

impl Statistics for Seen {
    fn observe(&mut self, _: ValueId, tensor: &Tensor) {
        self.0.extend(tensor.as_f32().unwrap());
    }
}

#[test]
fn samples_are_surveyed_in_order_on_any_number_of_threads() {
    let graph = doubled();
    let sample = |i: usize| Ok(vec![Tensor::f32(&[1], vec![i as f32])]);
    for threads in 1..=4 {
        let done = AtomicUsize::new(0);
        let count = |_: usize, of: usize| {
            assert_eq!(of, 7);
            done.fetch_add(1, Ordering::Relaxed);
            ControlFlow::Continue(())
        };
        let threads = Threads::start(threads).unwrap();
        let survey = Survey { graph: &graph, count: 7, sample: &sample, watch: &count };
        let each = survey.each(&threads, Seen::default).unwrap();
        assert!(each.iter().enumerate().all(|(i, s)| s.0 == [i as f32, 2.0 * i as f32]));
        let few = survey.few(&threads, Seen::default).unwrap();
        assert_eq!(few.len(), threads.count());
        assert_eq!(few.iter().flat_map(|s| &s.0).sum::<f32>(), 63.0);
        assert_eq!(done.load(Ordering::Relaxed), 14);
        let stop = |_: usize, _: usize| ControlFlow::Break(Diag::new(Code::DATA, "enough"));
        let stopped = Survey { watch: &stop, ..survey }.each(&threads, Seen::default);
        assert_eq!(stopped.err().map(|d| d.message).as_deref(), Some("enough"));
    }
}
