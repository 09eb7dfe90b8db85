//! What there is to say about a model. Nodes of which the same is to be said share a sentence.

/// Remarks in the order in which they were first made.
#[derive(Debug, Default)]
pub(super) struct Remarks(Vec<Remark>);

#[derive(Debug)]
struct Remark {
    /// The nodes that come first and last, if it is about nodes.
    nodes: Option<[String; 2]>,
    /// Others of which it holds.
    others: usize,
    what: String,
}

impl Remarks {
    /// Says something about the model.
    pub(super) fn of_model(&mut self, what: String) {
        self.0.push(Remark { nodes: None, others: 0, what });
    }

    /// Says something about a node.
    pub(super) fn of_node(&mut self, node: String, what: String) {
        for known in self.0.iter_mut().filter(|known| known.what == what) {
            let Some([_, last]) = &mut known.nodes else { continue };
            if *last != node {
                known.others += 1;
                *last = node;
            }
            return;
        }
        self.0.push(Remark { nodes: Some([node.clone(), node]), others: 0, what });
    }

    /// Each as a sentence without a full stop.
    pub(super) fn sentences(self) -> Vec<String> {
        let sentence = |Remark { nodes, others, what }: Remark| match (nodes, others) {
            (None, _) => what,
            (Some([node, _]), 0) => format!("node {node}: {what}"),
            (Some([node, _]), 1) => format!("node {node} and another: {what}"),
            (Some([node, _]), others) => format!("node {node} and {others} others: {what}"),
        };
        self.0.into_iter().map(sentence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_share_sentences() {
        let mut remarks = Remarks::default();
        remarks.of_node("\"a\" (Add)".into(), "it is said".into());
        remarks.of_model("the model is said".into());
        for node in ["\"a\" (Add)", "\"b\" (Add)", "\"c\" (Mul)"] {
            remarks.of_node(node.into(), "it is said".into());
        }
        remarks.of_node("\"a\" (Add)".into(), "more".into());
        let sentences = remarks.sentences();
        assert_eq!(
            sentences,
            ["node \"a\" (Add) and 2 others: it is said", "the model is said", "node \"a\" (Add): more"]
        );
    }
}
