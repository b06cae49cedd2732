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
    /// What may be said all the same, because it is so today.
    today: Today,
}

/// What may be said about a feature that is not built.
enum Today {
    /// Everything but this value.
    Except(&'static str),
    /// Nothing.
    Silent,
}

/// Every key that does nothing yet.
pub(super) const LATER: &[Later] = &[
    later("tiers.*.num_ctx", RUNNER, Today::Silent),
    later("tiers.*.runner_options", RUNNER, Today::Silent),
    later("tiers.*.keep_alive", RUNNER, Today::Silent),
    later("tiers.*.max_output", RUNNER, Today::Silent),
    later("manage.default", "management of all instances at once is", Today::Except("all")),
];

const RUNNER: &str = "bounds on a model's options are";

const fn later(path: &'static str, feature: &'static str, today: Today) -> Later {
    Later { path, feature, today }
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
        let is = |word: &str| match &node.value {
            Value::Scalar(scalar) if word == "null" => scalar.is_null(),
            Value::Scalar(scalar) => scalar.text == word,
            Value::List(items) => word == "[]" && items.is_empty(),
            Value::Map(_) => false,
        };
        let remedy = match self.today {
            Today::Except(word) if !is(word) => return,
            Today::Except(_) => "name an instance, or remove it".to_owned(),
            Today::Silent => "remove it".to_owned(),
        };
        let text = format!("{} not built yet, so this would do nothing: {remedy}", self.feature);
        cx.problems.borrow_mut().push(Problem::at(node.line, path, text));
    }
}
