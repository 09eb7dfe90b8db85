//! A training as bytes: with it, it goes on as if it had never ended. Numbers are little-endian; what they belong to is said by a digest of the
//! network, the data and the settings that the caller gives.

use qcc_ir::Diag;
use qcc_ir::diag::Code;

use crate::gradient_noise::GradientNoise;
use crate::interval::Interval;
use crate::loss::Score;
use crate::network::{Network, TrainedLayer};
use crate::update::Memories;

/// The first bytes of a file.
const MAGIC: &[u8; 16] = b"qcc finetune 4\n\0";

/// What a training is at a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Of what is trained, and how.
    pub digest: [u8; 32],
    /// Steps that were made.
    pub step: usize,
    /// Evaluations since one was the best.
    pub idle: usize,
    /// Step and held-out score of the best parameters.
    pub best: (usize, Score),
    pub(crate) noise: GradientNoise,
    /// The best parameters.
    pub(crate) best_parameters: Parameters,
    pub(crate) state: State,
    /// Of a teacher that learns too.
    pub(crate) teacher: Option<State>,
}

/// What one network is at a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    pub(crate) parameters: Parameters,
    pub(crate) memories: Memories,
}

/// Parameters of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// Shadows, bias, logarithms of scales; which weights are frozen, 1 or 0; thresholds and logarithms of steps of an interval.
    layers: Vec<[Vec<f32>; 6]>,
    scales: Vec<f32>,
}

impl Parameters {
    /// Those of a network.
    pub(crate) fn of(network: &Network) -> Parameters {
        let frozen = |l: &TrainedLayer| l.frozen.iter().map(|&f| f32::from(u8::from(f))).collect();
        let lists = |l: &TrainedLayer| {
            let of_interval =
                |list: fn(&Interval) -> &Vec<f32>| l.interval.as_ref().map_or(Vec::new(), |i| list(i).clone());
            let (thresholds, steps) = (of_interval(|i| &i.thresholds), of_interval(|i| &i.log_steps));
            [l.shadows.clone(), l.bias.clone(), l.log_scales.clone(), frozen(l), thresholds, steps]
        };
        let layers = network.layers.iter().map(lists);
        Parameters { layers: layers.collect(), scales: network.scales.iter().map(|s| s.log_scale).collect() }
    }

    /// Gives them to a network.
    pub(crate) fn apply(&self, network: &mut Network) {
        for (layer, [shadows, bias, scales, frozen, thresholds, log_steps]) in
            network.layers.iter_mut().zip(&self.layers)
        {
            layer.shadows.clone_from(shadows);
            layer.bias.clone_from(bias);
            layer.log_scales.clone_from(scales);
            layer.frozen = frozen.iter().map(|&f| f > 0.0).collect();
            layer.noise = None;
            layer.interval = (!thresholds.is_empty())
                .then(|| Interval { thresholds: thresholds.clone(), log_steps: log_steps.clone() });
        }
        network.scales.iter_mut().zip(&self.scales).for_each(|(s, &log)| s.log_scale = log);
    }

    fn lists(&self) -> impl Iterator<Item = &Vec<f32>> {
        self.layers.iter().flatten().chain(std::iter::once(&self.scales))
    }

    fn lists_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        self.layers.iter_mut().flatten().chain(std::iter::once(&mut self.scales))
    }
}

impl State {
    fn lists(&self) -> impl Iterator<Item = &Vec<f32>> {
        let memories = self.memories.layers.iter().flatten().chain(std::iter::once(&self.memories.scales));
        self.parameters.lists().chain(memories.flat_map(|m| [&m.means, &m.squares]))
    }

    fn lists_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        let memories = self.memories.layers.iter_mut().flatten().chain(std::iter::once(&mut self.memories.scales));
        self.parameters.lists_mut().chain(memories.flat_map(|m| [&mut m.means, &mut m.squares]))
    }
}

impl Checkpoint {
    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.digest);
        let (at, best) = (self.best.0, self.best.1);
        let counts = [self.step, self.idle, at, best.samples, best.rows, best.agreeing, best.labelled, best.right];
        bytes.extend(counts.iter().flat_map(|&n| (n as u64).to_le_bytes()));
        let noise = &self.noise;
        for number in [best.loss, noise.signal, noise.noise, noise.steps] {
            bytes.extend(number.to_le_bytes());
        }
        let lists = self.best_parameters.lists().chain(self.state.lists());
        let lists = lists.chain(self.teacher.iter().flat_map(State::lists));
        lists.for_each(|list| bytes.extend(list.iter().flat_map(|x| x.to_le_bytes())));
        bytes
    }

    /// From bytes, for networks with as many parameters: the one that learns, and a teacher that learns too.
    pub(crate) fn from_bytes(bytes: &[u8], like: State, teacher: Option<State>) -> Result<Checkpoint, Diag> {
        let wrong = || {
            let diag = Diag::new(Code::DATA, "the checkpoint is not whole, or is of another network");
            diag.help("begin anew without --resume")
        };
        let mut rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or_else(wrong)?;
        let mut take = |n: usize| -> Result<&[u8], Diag> {
            let (head, tail) = rest.split_at_checked(n).ok_or_else(wrong)?;
            rest = tail;
            Ok(head)
        };
        let digest = take(32)?.try_into().map_err(|_| wrong())?;
        let mut counts = [0usize; 8];
        for count in &mut counts {
            let bytes = take(8)?.try_into().map_err(|_| wrong())?;
            *count = usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| wrong())?;
        }
        let mut numbers = [0f64; 4];
        for number in &mut numbers {
            *number = f64::from_le_bytes(take(8)?.try_into().map_err(|_| wrong())?);
        }
        let [loss, signal, noise, steps] = numbers;
        let noise = GradientNoise { signal, noise, steps };
        let mut fill = |list: &mut Vec<f32>| -> Result<(), Diag> {
            let (numbers, _) = take(4 * list.len())?.as_chunks::<4>();
            list.iter_mut().zip(numbers).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
            Ok(())
        };
        let (mut best_parameters, mut state, mut teacher) = (like.parameters.clone(), like, teacher);
        let lists = best_parameters.lists_mut().chain(state.lists_mut());
        lists.chain(teacher.iter_mut().flat_map(State::lists_mut)).try_for_each(&mut fill)?;
        if !rest.is_empty() {
            return Err(wrong());
        }
        let [step, idle, at, samples, rows, agreeing, labelled, right] = counts;
        let score = Score { samples, loss, rows, agreeing, labelled, right };
        Ok(Checkpoint { digest, step, idle, best: (at, score), noise, best_parameters, state, teacher })
    }
}
