//! What training computes is what runs: on random networks of 8 and of 4 bits the codes of the trainer's forward pass are those of the integer graph
//! evaluated by `qcc_interp`, before and after steps, and the number of threads changes no bit of what is learned.
//!
//! Each case is made from a seed, which a failure prints. `QCC_SEED=n` runs that case alone.

mod common;

use qcc_interp::Evaluator;
use qcc_ir::{Data, Graph, Tensor};
use qcc_train::{Network, Rates, Rule, Sample, Settings, Target, Teacher, Trainer, Weights};

use common::networks::{inputs, network};
use common::quantized;

fn settings(threads: usize) -> Settings {
    Settings {
        rule: Rule::Adam,
        rates: Rates { weights: 2e-2, scales: 2e-2 },
        weights: Weights { teacher: 1.0, labels: 0.5, temperature: 2.0 },
        reals: false,
        threads,
    }
}

fn batch(float: &Graph, seed: u64, count: usize) -> Vec<(Sample, Target)> {
    let teacher = Teacher::new(float);
    let one = |(i, inputs): (usize, Vec<Tensor>)| {
        let target = teacher.target(&inputs).expect("the teacher runs");
        (Sample { inputs, label: Some(i as i64 % 10) }, target)
    };
    inputs(seed ^ 0x55, count).into_iter().enumerate().map(one).collect()
}

/// Compares the trainer's codes of all outputs with the interpreter's.
fn assert_exact(trainer: &Trainer, samples: &[(Sample, Target)], what: &str) {
    let graph = trainer.network().lowered().expect("the network has an integer form");
    let evaluator = Evaluator::new(&graph);
    let samples: Vec<Sample> = samples.iter().map(|(sample, _)| sample.clone()).collect();
    for (sample, found) in samples.iter().zip(trainer.outputs(&samples).expect("the trainer runs")) {
        let codes = |(&v, t): (&qcc_ir::ValueId, &Tensor)| {
            let u = graph.ty(v).uniform().expect("inputs are quantized");
            let codes = t.as_f32().expect("floats").iter().map(|&x| u.format.quantize(x, u.scale(), u.zero_point()));
            Tensor::new(&t.dims, Data::integers(u.storage(), codes))
        };
        let inputs: Vec<Tensor> = graph.inputs().iter().zip(&sample.inputs).map(codes).collect();
        let wanted: Vec<Data> = evaluator.run(&inputs).expect("it ran before").into_iter().map(|t| t.data).collect();
        assert!(found == wanted, "{what}: other codes than the interpreter's\n{}", short(&graph));
    }
}

fn short(graph: &Graph) -> String {
    use qcc_ir::print::{Large, Options, print_with};
    print_with(graph, Options { inline: 0, large: Large::Elide }).unwrap_or_default()
}

fn case(seed: u64, bits: [&str; 2]) {
    let what = format!("seed {seed}, w{}a{}", bits[0], bits[1]);
    let float = network(seed);
    let (graph, lowering) = quantized(&float, seed, bits);
    let start = Network::new(&graph, &lowering).unwrap_or_else(|e| panic!("{what}: {e}"));
    let samples = batch(&float, seed, 11);
    let mut trained: Vec<Vec<f32>> = Vec::new();
    for threads in [1, 3] {
        let mut trainer = Trainer::new(start.clone(), settings(threads)).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_exact(&trainer, &samples, &what);
        let first = trainer.evaluate(&samples).expect("it runs");
        for _ in 0..4 {
            trainer.train(&samples).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        assert_exact(&trainer, &samples, &format!("{what}, trained"));
        assert!(trainer.evaluate(&samples).expect("it runs").loss.is_finite() && first.loss.is_finite());
        let network = trainer.network();
        let layers = network.layers.iter().flat_map(|l| l.shadows.iter().chain(&l.bias).chain(&l.log_scales));
        trained.push(layers.copied().chain(network.scales.iter().map(|s| s.log_scale)).collect());
    }
    let bits_of = |all: &[f32]| all.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits_of(&trained[0]), bits_of(&trained[1]), "{what}: threads change what is learned");
}

/// All constants of the integer graph.
fn constants(network: &Network) -> Vec<Data> {
    let graph = network.lowered().expect("the network has an integer form");
    graph.constants().map(|(_, tensor)| tensor.data.clone()).collect()
}

#[test]
fn intervals_and_noise_compute_what_runs() {
    for seed in 0..6 {
        let what = format!("seed {seed}");
        let float = network(seed);
        let (graph, lowering) = quantized(&float, seed, ["4", "4"]);
        let start = Network::new(&graph, &lowering).unwrap_or_else(|e| panic!("{what}: {e}"));
        let samples = batch(&float, seed, 11);

        let mut by_intervals = start.clone();
        if !by_intervals.begin_intervals() {
            continue;
        }
        assert!(constants(&by_intervals) == constants(&start), "{what}: intervals begin with other integers");
        let mut trainer = Trainer::new(by_intervals, settings(2)).unwrap_or_else(|e| panic!("{what}: {e}"));
        for _ in 0..4 {
            trainer.train(&samples).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        assert_exact(&trainer, &samples, &format!("{what}, intervals"));
        assert!(constants(trainer.network()) != constants(&start), "{what}: nothing is learned");

        let mut by_noise = start.clone();
        assert!(by_noise.begin_noise() && !by_noise.is_final());
        let mut trainer = Trainer::new(by_noise, settings(2)).unwrap_or_else(|e| panic!("{what}: {e}"));
        for group in 0..3 {
            trainer.set_noise(group, 2, 7).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_exact(&trainer, &samples, &format!("{what}, noise in group {group}"));
            let noisy = constants(trainer.network());
            trainer.train(&samples).unwrap_or_else(|e| panic!("{what}: {e}"));
            trainer.set_noise(group, 2, 7).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(constants(trainer.network()) != noisy, "{what}: the noise of a step is that of the one before");
            assert_eq!(trainer.network().is_final(), group == 2, "{what}, group {group}");
        }
        assert_exact(&trainer, &samples, &format!("{what}, after noise"));
    }
}

#[test]
fn training_computes_what_runs() {
    let one = std::env::var("QCC_SEED").ok().and_then(|s| s.parse().ok());
    let seeds = one.map_or(0..24, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let bits = [["8", "8"], ["4", "8"], ["4", "4"], ["3", "4"]][seed as usize % 4];
        case(seed, bits);
    }
}
