//! # Pages of the program
//!
//! Job: give back the pages of the executable that only its start has touched.
//! May touch: this process's view of its own executable, which is never written. Must not touch: memory that
//! was written. Callers: the proxy's wiring, once it is ready.
//!
//! The kernel maps a program's pages when they are first needed, with their neighbours, and keeps them mapped.
//! Reading settings, making keys and the first connections pass most of the code once: measured 12 of an
//! idle proxy's 15 MB. Pages that are wanted again are mapped again, from the page cache, where they stay as
//! long as memory is not short; mapped, they would be the last to leave it.

use std::{io, ops::Range};

/// Unmaps the program's pages. They come back when they are touched.
///
/// # Errors
/// When the kernel does not tell what is mapped, or does not take the advice.
pub fn give_back() -> io::Result<()> {
    let executable = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    clean(&maps, &executable.to_string_lossy()).into_iter().try_for_each(drop_pages)
}

/// The mappings of an executable that hold what is in its file: code, and the constants at its start.
/// Others were relocated, and would lose that.
fn clean(maps: &str, executable: &str) -> Vec<Range<usize>> {
    maps.lines().filter_map(|line| mapping(line, executable)).collect()
}

/// `start-end rights offset device inode path`, as proc(5) has it.
fn mapping(line: &str, executable: &str) -> Option<Range<usize>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (rights, offset) = (words.next()?, words.next()?);
    let path = words.nth(2)?;
    let is_clean = rights == "r-xp" || (rights == "r--p" && offset.bytes().all(|b| b == b'0'));
    let number = |text| usize::from_str_radix(text, 16).ok();
    (path == executable && is_clean).then_some(number(start)?..number(end)?)
}

#[allow(unsafe_code)] // madvise
fn drop_pages(range: Range<usize>) -> io::Result<()> {
    // SAFETY: the range is one mapping of a file, private and without the right to write: what is read there
    // is the file's content before the call and after it, whichever thread reads.
    let result = unsafe {
        libc::madvise(
            std::ptr::with_exposed_provenance_mut(range.start),
            range.len(),
            libc::MADV_DONTNEED,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
5600a000-5600c000 r--p 00000000 fe:00 11 /usr/bin/proxy
5600c000-5600f000 r-xp 00002000 fe:00 11 /usr/bin/proxy
5600f000-56010000 r--p 00005000 fe:00 11 /usr/bin/proxy
56010000-56011000 rw-p 00006000 fe:00 11 /usr/bin/proxy
7f00a000-7f00b000 r-xp 00000000 fe:00 12 /usr/lib/libc.so.6
7f00c000-7f00d000 rw-p 00000000 00:00 0
";

    #[test]
    fn relocated_memory_and_libraries_are_left_alone() {
        let found = clean(MAPS, "/usr/bin/proxy");
        assert_eq!(found, [0x5600_a000..0x5600_c000, 0x5600_c000..0x5600_f000]);
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("RssFile:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        give_back().unwrap();
        let after = resident();
        assert!(after < before, "{before} kB before, {after} kB after");
    }
}
