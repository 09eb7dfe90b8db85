//! Derivatives against differences: a rounding kernel tells of each code how far the unrounded number is, to 1/64, so that the difference that some units of
//! an operand make can be seen.

use super::*;
use qcc_interp::eval_node;
use qcc_ir::{Int, Uniform, attr};
use qcc_num::random::Random;

fn bytes(dims: &[usize], random: &mut Random) -> Tensor {
    // Far enough from both ends to be moved.
    Tensor::new(dims, Data::U8((0..dims.iter().product()).map(|_| 60 + random.below(130) as u8).collect()))
}

fn quantized(dims: &[usize], zero: i64) -> Type {
    Type { dims: dims.to_vec(), elem: qcc_ir::Elem::Uniform(Arc::new(Uniform::per_tensor(Int::U8, 0.1, zero))) }
}

/// Compares a derivative with what a change of that size makes: what it is of, results, size, derivative.
type Agree<'a> = &'a dyn Fn(String, &[f64], f64, f32);

/// An operator with its operands: constants, and values whose codes are in `values`.
struct Case {
    site: Site,
    values: Vec<Option<Tensor>>,
}

impl Case {
    fn run(&self, values: &[Option<Tensor>]) -> (Rounded, Box<dyn Kernel>) {
        let kernel = kernel(self.site.clone()).expect("a kernel");
        let workspace = Workspace::default();
        let operands = self.operands(values);
        let call = Call { batch: 1, operands: &operands, workspace: &workspace };
        (kernel.forward(&call).expect("it runs"), kernel)
    }

    fn operands<'a>(&'a self, values: &'a [Option<Tensor>]) -> Vec<Codes<'a>> {
        let constants = self.site.operands.iter().map(|(c, _)| c.as_deref());
        let one = |(constant, value): (Option<&'a Tensor>, &'a Option<Tensor>)| match (constant, value) {
            (_, Some(value)) => Codes::Samples(&value.data),
            (Some(constant), None) => Codes::Constant(constant),
            (None, None) => panic!("an operand without codes"),
        };
        constants.zip(values).map(one).collect()
    }

    /// The unrounded result.
    fn real(&self, values: &[Option<Tensor>]) -> Vec<f64> {
        let (found, _) = self.run(values);
        let Data::U8(codes) = &found.codes else { panic!("bytes") };
        let errors = found.errors.unwrap_or_else(|| vec![0; codes.len()]);
        assert!(errors.iter().all(|&e| e != BELOW && e != ABOVE), "{}: a result is cut off", self.site.op.name());
        codes.iter().zip(errors).map(|(&q, e)| f64::from(q) + f64::from(e) / 64.0).collect()
    }

    fn check(&self, random: &mut Random) {
        let name = self.site.op.name();
        let (found, kernel) = self.run(&self.values);
        self.check_codes(&found);
        let g: Vec<f32> = (0..found.codes.len()).map(|_| random.normal() as f32).collect();
        let (workspace, operands) = (Workspace::default(), self.operands(&self.values));
        let call = Call { batch: 1, operands: &operands, workspace: &workspace };
        let wanted: Vec<bool> = self.values.iter().map(Option::is_some).collect();
        let sizes = [1, 2].map(|i| self.site.operands.get(i).map_or(0, |(_, ty)| ty.elements()));
        let mut parameters = [ParameterGradient { weights: vec![0.0; sizes[0]], bias: vec![0.0; sizes[1]] }];
        let back = Backward { gradient: &g, result: &found, wanted: &wanted, parameters: &mut parameters };
        let by_operands = kernel.backward(&call, back);
        let before = self.real(&self.values);
        let loss =
            |after: &[f64]| after.iter().zip(&before).zip(&g).map(|((a, b), &g)| (a - b) * f64::from(g)).sum::<f64>();
        let agree = |what: String, after: &[f64], step: f64, derivative: f32| {
            let moved = after.iter().zip(&before).zip(&g).filter(|((a, b), _)| a != b).map(|(_, g)| f64::from(g.abs()));
            let tolerance = 2.5 / 64.0 * moved.sum::<f64>() + 0.02;
            let (found, wanted) = (loss(after), step * f64::from(derivative));
            assert!((found - wanted).abs() <= tolerance, "{name}, {what}: {found} for {wanted}, within {tolerance}");
        };
        for (i, value) in self.values.iter().enumerate() {
            let Some(value) = value else { continue };
            let by = by_operands[i].as_ref().unwrap_or_else(|| panic!("{name} has a derivative by operand {i}"));
            for e in 0..value.data.len().min(40) {
                let mut values = self.values.clone();
                if let Some(Tensor { data: Data::U8(v), .. }) = &mut values[i] {
                    v[e] += 16;
                }
                agree(format!("operand {i}[{e}]"), &self.real(&values), 16.0, by[e]);
            }
        }
        self.check_parameters(&parameters[0], &agree);
    }

    /// Codes are those of the interpreter.
    fn check_codes(&self, found: &Rounded) {
        let tensors: Vec<Tensor> = self
            .site
            .operands
            .iter()
            .zip(&self.values)
            .map(|((c, _), v)| v.clone().or_else(|| c.as_deref().cloned()).expect("codes"))
            .collect();
        let pairs: Vec<(&Tensor, &Type)> = tensors.iter().zip(self.site.operands.iter().map(|(_, ty)| ty)).collect();
        let wanted = eval_node(self.site.op, &self.site.attrs, &pairs, &self.site.result).expect("it is legal");
        assert_eq!(found.codes, wanted.data, "{}", self.site.op.name());
    }

    fn check_parameters(&self, by: &ParameterGradient, agree: Agree) {
        let moved = |operand: usize, change: &dyn Fn(&mut Data)| {
            let mut other = Case { site: self.site.clone(), values: self.values.clone() };
            if let Some(constant) = &mut other.site.operands[operand].0 {
                change(&mut Arc::make_mut(constant).data);
            }
            other.real(&other.values)
        };
        for e in 0..if self.site.layer.is_some() { by.weights.len().min(40) } else { 0 } {
            let change = |data: &mut Data| {
                if let Data::I8(v) = data {
                    v[e] += 40;
                }
            };
            // The zero point's part of the bias follows its weight.
            let output = e / (by.weights.len() / by.bias.len());
            let follow = |data: &mut Data| {
                if let Data::I32(v) = data {
                    v[output] -= 40 * i32::from(self.site.zero);
                }
            };
            let mut other = Case { site: self.site.clone(), values: self.values.clone() };
            if let Some(c) = other.site.operands[1].0.as_mut() {
                change(&mut Arc::make_mut(c).data);
            }
            if let Some(c) = other.site.operands[2].0.as_mut() {
                follow(&mut Arc::make_mut(c).data);
            }
            agree(format!("weight {e}"), &other.real(&other.values), 40.0, by.weights[e]);
        }
        for e in 0..if self.site.layer.is_some() { by.bias.len() } else { 0 } {
            let change = |data: &mut Data| {
                if let Data::I32(v) = data {
                    v[e] += 9000;
                }
            };
            agree(format!("bias {e}"), &moved(2, &change), 9000.0, by.bias[e]);
        }
    }
}

fn constant(tensor: Tensor) -> (Option<Arc<Tensor>>, Type) {
    let ty = tensor.plain_type();
    (Some(Arc::new(tensor)), ty)
}

fn site(op: Opcode, attrs: Attrs, operands: Vec<(Option<Arc<Tensor>>, Type)>, result: Type, zero: u8) -> Site {
    Site { op, attrs, operands, result, zero, layer: None }
}

/// A convolution of `groups` with a residual.
fn convolution(groups: usize, random: &mut Random) -> Case {
    let (x, y, per_group, zero) = ([1, 5, 4, 6], [1, 3, 2, 6], 6 / groups, 120u8);
    let w: Vec<i8> = (0..6 * 9 * per_group).map(|_| random.within(-70, 70) as i8).collect();
    let sums = w.chunks(9 * per_group).map(|row| row.iter().map(|&w| i32::from(w)).sum::<i32>());
    let bias = sums.map(|s| random.within(-500, 500) as i32 - i32::from(zero) * s).collect();
    let mult = (0..6).map(|_| random.within(1 << 21, 1 << 22) as i32).collect();
    let attrs = Attrs::new(Opcode::QConv2d)
        .with(attr::STRIDES, vec![2, 2])
        .with(attr::PADS, vec![1, 1, 1, 1])
        .with(attr::GROUPS, groups as i64)
        .with(attr::PAD_VALUE, i64::from(zero))
        .with(attr::SHL, 3)
        .with(attr::OFFSET, 32 + 64 * 128 - 64 * 50)
        .with(attr::RESIDUAL_MULT, 1 << 13);
    let operands = vec![
        (None, quantized(&x, 120)),
        constant(Tensor::new(&[6, 3, 3, per_group], Data::I8(w))),
        constant(Tensor::new(&[6], Data::I32(bias))),
        constant(Tensor::new(&[6], Data::I32(mult))),
        (None, quantized(&y, 0)),
    ];
    let mut site = site(Opcode::QConv2d, attrs, operands, quantized(&y, 128), zero);
    site.layer = Some(0);
    Case { site, values: vec![Some(bytes(&x, random)), None, None, None, Some(bytes(&y, random))] }
}

#[test]
fn layers() {
    let mut random = Random::new(7);
    for groups in [1, 2, 6] {
        convolution(groups, &mut random).check(&mut random);
    }
    let w: Vec<i8> = (0..5 * 12).map(|_| random.within(-70, 70) as i8).collect();
    let bias = w.chunks(12).map(|row| -100 * row.iter().map(|&w| i32::from(w)).sum::<i32>()).collect();
    let attrs = Attrs::new(Opcode::QLinear).with(attr::SHL, 3).with(attr::OFFSET, 32 + 64 * 128);
    let operands = vec![
        (None, quantized(&[3, 12], 100)),
        constant(Tensor::new(&[5, 12], Data::I8(w))),
        constant(Tensor::new(&[5], Data::I32(bias))),
        constant(Tensor::new(&[5], Data::I32(vec![1 << 21; 5]))),
    ];
    let mut site = site(Opcode::QLinear, attrs, operands, quantized(&[3, 5], 128), 100);
    site.layer = Some(0);
    Case { site, values: vec![Some(bytes(&[3, 12], &mut random)), None, None, None] }.check(&mut random);
}

#[test]
fn sums_and_products() {
    let mut random = Random::new(8);
    let (x, y) = ([1, 3, 2, 4], [1, 1, 1, 4]);
    let pair = || vec![(None, quantized(&x, 100)), (None, quantized(&y, 120))];
    let attrs = Attrs::new(Opcode::IAdd)
        .with(attr::MULTS, vec![9000, -7000])
        .with(attr::SHIFT, 15)
        .with(attr::OFFSET, 100 << 15);
    let sum = site(Opcode::IAdd, attrs, pair(), quantized(&x, 100), 100);
    let attrs = Attrs::new(Opcode::IMul)
        .with(attr::ZEROS, vec![100, 120])
        .with(attr::MULT, 1 << 20)
        .with(attr::SHL, 7)
        .with(attr::OFFSET, 32 + 64 * 128);
    let product = site(Opcode::IMul, attrs, pair(), quantized(&x, 128), 100);
    for site in [sum, product] {
        let values = vec![Some(bytes(&x, &mut random)), Some(bytes(&y, &mut random))];
        Case { site, values }.check(&mut random);
    }
    let attrs = Attrs::new(Opcode::ScaleChannels).with(attr::SHIFT, 12);
    let operands = vec![
        (None, quantized(&x, 100)),
        constant(Tensor::new(&[4], Data::I16(vec![3000, -2000, 1500, 2500]))),
        constant(Tensor::new(&[4], Data::I32(vec![40 << 12, 210 << 12, 20 << 12, 30 << 12]))),
    ];
    let line = site(Opcode::ScaleChannels, attrs, operands, quantized(&x, 100), 100);
    Case { site: line, values: vec![Some(bytes(&x, &mut random)), None, None] }.check(&mut random);
}

#[test]
fn pools_and_means() {
    let mut random = Random::new(9);
    let (x, y) = ([1, 4, 4, 3], [1, 2, 2, 3]);
    let window = |op| {
        let attrs = Attrs::new(op).with(attr::KERNEL, vec![3, 3]).with(attr::STRIDES, vec![2, 2]);
        attrs.with(attr::PADS, vec![1, 1, 1, 1])
    };
    let attrs = window(Opcode::IAveragePool).with(attr::ZERO, 100).with(attr::OFFSET, 32 + 64 * 100).with(attr::SHL, 6);
    let mult = Tensor::new(&[1], Data::I32(vec![1 << 29]));
    let average =
        site(Opcode::IAveragePool, attrs, vec![(None, quantized(&x, 100)), constant(mult)], quantized(&y, 100), 100);
    Case { site: average, values: vec![Some(bytes(&x, &mut random)), None] }.check(&mut random);
    let attrs = Attrs::new(Opcode::IMean).with(attr::AXES, vec![1, 2]).with(attr::KEEPDIMS, false);
    let attrs =
        attrs.with(attr::ZERO, 100).with(attr::MULT, 1 << 29).with(attr::SHL, 6).with(attr::OFFSET, 32 + 64 * 100);
    let mean = site(Opcode::IMean, attrs, vec![(None, quantized(&x, 100))], quantized(&[1, 3], 100), 100);
    Case { site: mean, values: vec![Some(bytes(&x, &mut random))] }.check(&mut random);
    // Steps of 16 change which is the greatest: codes lie further apart.
    let spread: Vec<u8> = (0..48).map(|i| 5 + 5 * (i * 7 % 48) as u8).collect();
    let greatest =
        site(Opcode::IMaxPool, window(Opcode::IMaxPool), vec![(None, quantized(&x, 100))], quantized(&y, 100), 100);
    let case = Case { site: greatest, values: vec![Some(Tensor::new(&x, Data::U8(spread.clone())))] };
    let (found, kernel) = case.run(&case.values);
    case.check_codes(&found);
    let (workspace, operands) = (Workspace::default(), case.operands(&case.values));
    let call = Call { batch: 1, operands: &operands, workspace: &workspace };
    let g: Vec<f32> = (1..=12).map(|i| i as f32).collect();
    let by = kernel.backward(&call, Backward { gradient: &g, result: &found, wanted: &[true], parameters: &mut [] });
    let by = by[0].as_ref().expect("a derivative");
    let Data::U8(codes) = &found.codes else { panic!("bytes") };
    for (e, by) in by.iter().enumerate() {
        let wanted: f32 = codes
            .iter()
            .zip(&g)
            .enumerate()
            .filter(|(i, (q, _))| **q == spread[e] && i % 3 == e % 3)
            .map(|(_, (_, g))| g)
            .sum();
        assert_eq!(*by, wanted, "{e}");
    }
}

#[test]
fn products_of_matrices() {
    let mut random = Random::new(10);
    let attrs = Attrs::new(Opcode::QMatMul)
        .with(attr::ZEROS, vec![120, 125])
        .with(attr::MULT, 1 << 22)
        .with(attr::SHL, 2)
        .with(attr::OFFSET, 32 + 64 * 128);
    let operands = vec![(None, quantized(&[2, 3, 5], 120)), (None, quantized(&[1, 5, 4], 125))];
    let site = site(Opcode::QMatMul, attrs, operands, quantized(&[2, 3, 4], 128), 120);
    let values = vec![Some(bytes(&[2, 3, 5], &mut random)), Some(bytes(&[1, 5, 4], &mut random))];
    Case { site, values }.check(&mut random);
}

#[test]
fn movements_go_back_where_they_came_from() {
    let mut random = Random::new(11);
    let attrs = Attrs::new(Opcode::Concat).with(attr::AXIS, 1);
    let operands = vec![(None, quantized(&[2, 3], 0)), (None, quantized(&[2, 2], 0))];
    let concat = site(Opcode::Concat, attrs, operands, quantized(&[2, 5], 0), 0);
    let values = vec![Some(bytes(&[2, 3], &mut random)), Some(bytes(&[2, 2], &mut random))];
    Case { site: concat, values }.check(&mut random);
    let attrs = Attrs::new(Opcode::Pad).with(attr::PADS, vec![0, 1, 0, 2]).with(attr::VALUE, 7.0);
    let pad = site(Opcode::Pad, attrs, vec![(None, quantized(&[2, 3], 7))], quantized(&[2, 6], 7), 7);
    Case { site: pad, values: vec![Some(bytes(&[2, 3], &mut random))] }.check(&mut random);
    let attrs = Attrs::new(Opcode::Transpose).with(attr::PERM, vec![1, 0]);
    let transpose = site(Opcode::Transpose, attrs, vec![(None, quantized(&[2, 3], 0))], quantized(&[3, 2], 0), 0);
    Case { site: transpose, values: vec![Some(bytes(&[2, 3], &mut random))] }.check(&mut random);
}
