//! Which output tells the class of a sample, if any does.
//!
//! Scores of classes are one row of numbers for each sample. A model with one such output is taken for a classifier; so is
//! one that gives the index of a class itself. Of a detector, whose outputs have more extents, or of a model with several
//! rows of numbers, nobody can tell which of them an argmax would make sense of: there agreement is no figure, and the noise
//! of the outputs is.

use qcc_ir::diag::Code;
use qcc_ir::{Graph, Tensor, Type};

use super::noise::{reals, stands_for_reals};
use crate::Error;
use crate::data::Dataset;

/// Classes that count for the top-5 share.
pub(crate) const TOP: usize = 5;

/// Where classes come from; numbers are those of outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Classes {
    /// A score for each class.
    Scores(usize),
    /// The class itself.
    Index(usize),
}

impl Classes {
    /// Of a model that takes `batch` samples at once; or why it has none.
    pub(crate) fn of(graph: &Graph, batch: usize) -> Result<Classes, String> {
        let types: Vec<&Type> = graph.outputs().iter().map(|&v| graph.ty(v)).collect();
        let those =
            |wanted: &dyn Fn(&Type) -> bool| -> Vec<usize> { (0..types.len()).filter(|&i| wanted(types[i])).collect() };
        let scores = those(&|ty| stands_for_reals(ty) && is_row(&ty.dims, batch));
        let indices = those(&|ty| !ty.is_float() && ty.uniform().is_none() && ty.elements() == batch);
        match (scores.as_slice(), indices.as_slice()) {
            (&[scores], _) => Ok(Classes::Scores(scores)),
            ([], &[index]) => Ok(Classes::Index(index)),
            ([], _) => Err("no output is a row of scores for each sample".to_string()),
            (several, _) => Err(format!("{} outputs are rows of numbers, any of which may be scores", several.len())),
        }
    }

    /// Refuses labels that name no class, where the model has a score for each.
    pub(crate) fn check_labels(self, graph: &Graph, data: &Dataset, offset: i64) -> Result<(), Error> {
        let (Classes::Scores(output), Some(labels)) = (self, data.labels()) else { return Ok(()) };
        let classes = graph.outputs().get(output).map_or(0, |&v| graph.ty(v).elements() / data.batch().max(1));
        check_labels(labels, offset, classes)
            .map_err(|e| e.help("count them as the outputs do, or give --label-offset"))
    }

    /// The classes that the outputs of one call give each of its samples, the most likely first.
    pub(crate) fn read(self, outputs: &[Tensor], batch: usize) -> Vec<Vec<i64>> {
        let (Classes::Scores(i) | Classes::Index(i)) = self;
        let Some(values) = outputs.get(i).map(reals) else { return Vec::new() };
        let row = (values.len() / batch.max(1)).max(1);
        match self {
            Classes::Scores(_) => values.chunks(row).map(top).collect(),
            Classes::Index(_) => values.iter().map(|&x| vec![x as i64]).collect(),
        }
    }
}

/// Refuses labels that, with an offset, name none of so many classes.
pub(crate) fn check_labels(labels: &[i64], offset: i64, classes: usize) -> Result<(), Error> {
    let names_none = |l: &i64| l.checked_add(offset).and_then(|l| usize::try_from(l).ok()).is_none_or(|l| l >= classes);
    let Some(i) = labels.iter().position(names_none) else { return Ok(()) };
    let with = if offset == 0 { String::new() } else { format!(" and an offset of {offset}") };
    let message = format!("label {} of sample {i}{with}: the model has {classes} classes, from 0 on", labels[i]);
    Err(Error::new(Code::DATA, message))
}

/// Whether a model gives classes for each sample of `data`, by which it can be judged.
pub fn has_classes(graph: &Graph, data: &Dataset) -> bool {
    Classes::of(graph, data.batch()).is_ok()
}

/// Whether each of `batch` samples has one row of at least two numbers.
fn is_row(dims: &[usize], batch: usize) -> bool {
    let sample = match dims {
        [first, rest @ ..] if !rest.is_empty() && *first == batch => rest,
        dims if batch == 1 => dims,
        _ => return false,
    };
    sample.iter().filter(|&&d| d != 1).count() == 1
}

/// Indices of the greatest elements, the greatest first, the first of several that are equal.
fn top(row: &[f64]) -> Vec<i64> {
    let mut best: Vec<usize> = Vec::with_capacity(TOP + 1);
    for (i, &x) in row.iter().enumerate() {
        let at = best.iter().position(|&b| x > row[b]).unwrap_or(best.len());
        if at < TOP {
            best.insert(at, i);
            best.truncate(TOP);
        }
    }
    best.into_iter().filter_map(|i| i64::try_from(i).ok()).collect()
}

#[cfg(test)]
mod tests {
    use qcc_ir::{Builder, Int};

    use super::*;

    #[test]
    fn ties_take_the_first() {
        assert_eq!(top(&[1.0, 3.0, 3.0, 2.0]), [1, 2, 3, 0]);
        assert_eq!(top(&[0.0, 0.0]), [0, 1]);
        assert_eq!(top(&[0.0, 5.0, 1.0, 4.0, 2.0, 3.0]), [1, 3, 5, 4, 2]);
        assert!(top(&[]).is_empty());
    }

    fn classes(outputs: &[Type], batch: usize) -> Result<Classes, String> {
        let mut graph = Graph::new("g");
        let mut builder = Builder::new(&mut graph);
        let values = outputs.iter().map(|ty| builder.add_input("x", ty.clone())).collect();
        builder.set_outputs(values);
        Classes::of(&graph, batch)
    }

    #[test]
    fn only_one_row_of_scores_is_read_as_classes() {
        let f = Type::f32;
        assert_eq!(classes(&[f(&[1, 10])], 1), Ok(Classes::Scores(0)));
        assert_eq!(classes(&[f(&[4, 10, 1, 1])], 4), Ok(Classes::Scores(0)));
        assert_eq!(classes(&[f(&[1, 8, 4, 4]), f(&[1, 10])], 1), Ok(Classes::Scores(1)));
        assert_eq!(classes(&[Type::int(Int::I64, &[2])], 2), Ok(Classes::Index(0)));
        // A detector, two heads, a mask, and one probability.
        assert!(classes(&[f(&[1, 4420, 2]), f(&[1, 4420, 4])], 1).is_err());
        assert!(classes(&[f(&[1, 4]), f(&[1, 2])], 1).unwrap_err().starts_with("2 outputs"));
        assert!(classes(&[f(&[1, 21, 64, 64])], 1).is_err());
        assert!(classes(&[f(&[1, 1])], 1).is_err());
        assert!(classes(&[f(&[8, 10])], 4).is_err());
    }

    #[test]
    fn an_index_is_a_class() {
        let outputs = [Tensor::new(&[2], qcc_ir::Data::I64(vec![7, 3]))];
        assert_eq!(Classes::Index(0).read(&outputs, 2), [[7], [3]]);
        let scores = [Tensor::f32(&[2, 2], vec![0.0, 1.0, 5.0, 2.0])];
        assert_eq!(Classes::Scores(0).read(&scores, 2), [[1, 0], [0, 1]]);
    }
}
