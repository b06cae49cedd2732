//! Where the configuration says something.

use std::fmt;
use std::path::PathBuf;

/// Where the configuration says something, as `FILE:LINE: path.to.key`, for what is found wrong
/// with it only when it is used.
///
/// What is said is the same wherever it is: all places are equal, and look so.
#[derive(Clone, Default)]
pub struct Place(String);

impl Place {
    /// What is at `FILE:LINE: path.to.key`.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Place {}

/// A file that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// The file.
    pub path: PathBuf,
    /// Where the configuration names it, or would name another.
    pub place: Place,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_moved_says_the_same() {
        let file = |place: &str| NamedFile {
            path: PathBuf::from("a"),
            place: Place::new(place.to_owned()),
        };
        assert_eq!(file("usher.yaml:1: x"), file("usher.yaml:2: x"));
        assert_eq!(file("usher.yaml:1: x").place.to_string(), "usher.yaml:1: x");
    }
}
