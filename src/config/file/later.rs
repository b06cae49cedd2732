//! Keys whose feature is not built yet: setting one is a mistake, because it would do nothing.
//!
//! They are read and validated like all others. Who builds a feature deletes its rows here, and
//! the "not built yet" from its lines in `conf/usher.yaml`.

use super::fill::join;
use super::problems::Problem;
use super::reader::Context;
use super::tree::{Node, Value};

/// A key that does nothing yet.
pub(super) struct Later {
    /// Where it stands; `*` is any key of a map, `[]` any item of a list.
    pub path: &'static str,
    /// What is not built yet.
    feature: &'static str,
    /// The value that is not built; any other does what it says.
    value: &'static str,
}

/// Every key that does nothing yet.
pub(super) const LATER: &[Later] =
    &[later("manage.default", "management of all instances at once is", "all")];

const fn later(path: &'static str, feature: &'static str, value: &'static str) -> Later {
    Later { path, feature, value }
}

/// Notes every key of the file that would do nothing.
pub(super) fn refuse(root: &Node, cx: &Context<'_>) {
    for row in LATER {
        row.visit(root, row.path.split('.'), "", cx);
    }
}

impl Later {
    fn visit(
        &self,
        node: &Node,
        mut steps: std::str::Split<'static, char>,
        path: &str,
        cx: &Context<'_>,
    ) {
        let Some(step) = steps.next() else { return self.judge(node, path, cx) };
        match &node.value {
            Value::List(items) if step == "[]" => {
                for (index, item) in items.iter().enumerate() {
                    self.visit(item, steps.clone(), &format!("{path}[{index}]"), cx);
                }
            }
            Value::Map(entries) => {
                for entry in entries.iter().filter(|entry| step == "*" || step == entry.key) {
                    self.visit(&entry.node, steps.clone(), &join(path, &entry.key), cx);
                }
            }
            _ => {}
        }
    }

    fn judge(&self, node: &Node, path: &str, cx: &Context<'_>) {
        if !matches!(&node.value, Value::Scalar(scalar) if scalar.text == self.value) {
            return;
        }
        let remedy = "name an instance, or remove it";
        let text = format!("{} not built yet, so this would do nothing: {remedy}", self.feature);
        cx.problems.borrow_mut().push(Problem::at(node.line, path, text));
    }
}
