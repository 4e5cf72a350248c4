//! # Executables of Linux
//!
//! Job: reads an executable and tells whether it needs other files to run. May touch: the file. Callers: `main`, `programs`.

use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};

/// Reads an executable and makes sure that it asks for no other file: the image has none.
///
/// # Errors
/// When it cannot be read or is none.
pub(crate) fn read_static(path: &Path) -> Result<Vec<u8>> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(content.starts_with(b"\x7fELF"), "{} is no executable of Linux", path.display());
    ensure!(
        !has_interpreter(&content),
        "{} is linked dynamically; build it with -C target-feature=+crt-static",
        path.display()
    );
    Ok(content)
}

/// Whether a file is there and is linked dynamically.
pub(crate) fn is_dynamic(path: &Path) -> bool {
    fs::read(path).is_ok_and(|content| has_interpreter(&content))
}

/// Whether a 64-bit ELF file has a program header of the kind PT_INTERP.
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size).unwrap_or_default();
        bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let table = usize::try_from(number(32, 8)).unwrap_or(usize::MAX / 2);
    let (size, count) = (number(54, 2) as usize, number(56, 2) as usize);
    (0..count).any(|row| number(table + row * size, 4) == PT_INTERP)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test itself is linked dynamically.
    #[test]
    fn a_dynamic_executable_is_refused() {
        let own = std::env::current_exe().unwrap();
        let error = read_static(&own).unwrap_err().to_string();
        assert!(error.contains("is linked dynamically"), "{error}");
    }
}
