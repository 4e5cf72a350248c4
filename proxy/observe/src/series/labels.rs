//! # Label sets
//!
//! Job: names and values of labels, kept as the text that a scrape shows.
//! May touch: text. Callers: `series`, and whoever resolves series.

use std::{fmt, sync::Arc};

/// Labels in the order in which they were added. A clone shares the text, so that all families of one
/// endpoint hold it once.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct LabelSet(Arc<String>);

/// Bytes of a value that are kept. Names and identities are shorter; what a client makes up may not be.
const LONGEST_VALUE: usize = 1024;

impl LabelSet {
    /// Adds a label.
    #[must_use]
    pub fn with(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.push(name, value);
        self
    }

    /// Adds a label. What a label's name may not hold becomes `_`; a long value is cut.
    pub fn push(&mut self, name: impl AsRef<str>, value: impl AsRef<str>) {
        let (name, value) = (name.as_ref(), value.as_ref());
        let value = &value[..value.floor_char_boundary(LONGEST_VALUE)];
        let text = Arc::make_mut(&mut self.0);
        // Exactly: the text lives as long as its series.
        text.reserve_exact(name.len() + value.len() + 4);
        if !text.is_empty() {
            text.push(',');
        }
        let known = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        text.extend(name.chars().map(known));
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }

    /// As [`Self::with`], before the others.
    #[must_use]
    pub fn first(&self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let mut all = Self::default().with(name, value);
        if !self.0.is_empty() {
            let text = Arc::make_mut(&mut all.0);
            text.reserve_exact(self.0.len() + 1);
            text.push(',');
            text.push_str(&self.0);
        }
        all
    }

    /// `a="1",b="2"`, without braces.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.0)
    }
}
