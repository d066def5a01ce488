//! The machine: what it is, and what else it was doing.

use indicatif::BinaryBytes;
use serde::Serialize;
use std::fs;
use std::io::{self, Write};
use std::time::Instant;

/// A machine and the program on it.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// As the CPU calls itself.
    pub cpu: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Memory, in bytes; 0 if the system does not say.
    pub memory: u64,
    /// Operating system and architecture.
    pub system: String,
    /// Version of this program.
    pub ds4: &'static str,
}

impl Host {
    /// This one.
    pub fn here() -> Host {
        let file = |path| fs::read_to_string(path).unwrap_or_default();
        Host {
            cpu: field(&file("/proc/cpuinfo"), "model name").unwrap_or("unknown CPU").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: kib(&file("/proc/meminfo"), "MemTotal").unwrap_or(0) * 1024,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            ds4: env!("CARGO_PKG_VERSION"),
        }
    }

    /// A line for people.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let memory = BinaryBytes(self.memory);
        writeln!(out, "machine: {}, {} processors, {memory}, {}", self.cpu, self.processors, self.system)
    }
}

/// Share of the files that this process has mapped, of what is in memory now, that lies in large pages, 0 to 1: weights are
/// read faster from these. `None` where the system does not tell, or next to nothing is mapped.
pub fn in_large_pages() -> Option<f64> {
    /// What programs and libraries come to at most, in KiB.
    const PROGRAM: u64 = 256 << 10;
    let large = kib(&fs::read_to_string("/proc/self/smaps_rollup").ok()?, "FilePmdMapped")?;
    let all = kib(&fs::read_to_string("/proc/self/status").ok()?, "RssFile")?;
    (all > PROGRAM).then(|| large as f64 / all as f64)
}

/// What `name` has in a text of lines `name: value`, as the files of `/proc` are.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field.trim() == name).then(|| value.trim())
    })
}

/// The same, of a value in kB, which are KiB there.
fn kib(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix(" kB")?.parse().ok()
}

/// Watches how much of the processors others use.
pub struct Others {
    start: Instant,
    /// Ticks of everybody and of this process, if the system counts them.
    before: Option<[u64; 2]>,
}

impl Others {
    /// From now on.
    pub fn watch() -> Others {
        Others { start: Instant::now(), before: ticks() }
    }

    /// Share of all processors that other processes, the kernel's own work and other guests of the host took
    /// since then, 0 to 1. `None` where the system does not tell, or too little time has passed to say.
    pub fn share(&self) -> Option<f64> {
        let seconds = self.start.elapsed().as_secs_f64();
        let ([all0, own0], [all, own]) = (self.before?, ticks()?);
        if seconds < 0.5 {
            return None;
        }
        let others = (all - all0).saturating_sub(own - own0) as f64 / TICKS_PER_SECOND;
        let cpus = fs::read_to_string("/proc/stat").ok()?.lines().filter(|l| is_processor(l)).count();
        Some((others / seconds / cpus.max(1) as f64).clamp(0.0, 1.0))
    }
}

/// `USER_HZ`: the same on every Linux that we know of.
const TICKS_PER_SECOND: f64 = 100.0;

fn is_processor(line: &str) -> bool {
    line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Busy ticks of all processors, stolen ones included, and of this process.
fn ticks() -> Option<[u64; 2]> {
    let (stat, own) = (fs::read_to_string("/proc/stat").ok()?, fs::read_to_string("/proc/self/stat").ok()?);
    Some([all_ticks(&stat)?, own_ticks(&own)?])
}

/// First line of `/proc/stat`: cpu user nice system idle iowait irq softirq steal guest guest_nice, where
/// guests are in user and nice already. Source: proc_stat(5).
fn all_ticks(stat: &str) -> Option<u64> {
    let numbers: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|n| n.parse().ok()).collect();
    let busy = |i: usize| numbers.get(i).copied().unwrap_or(0);
    Some([0, 1, 2, 5, 6, 7].map(busy).iter().sum())
}

/// utime and stime of `/proc/self/stat`: fields 14 and 15, where the name in parentheses is the second.
fn own_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotalOf:  1 kB\nMemTotal:       24684144 kB\nmodel name\t: A: B\nHuge: 3\n";
        assert_eq!(kib(text, "MemTotal"), Some(24_684_144));
        assert_eq!(field(text, "model name"), Some("A: B"));
        assert_eq!([kib(text, "Huge"), kib(text, "Mem")], [None, None]);
    }

    #[test]
    fn ticks_are_read_as_the_manual_says() {
        let stat = "cpu  10 2 30 4000 50 6 7 8 9 0\ncpu0 1 1\nintr 5\n";
        assert_eq!(all_ticks(stat), Some(10 + 2 + 30 + 6 + 7 + 8));
        assert!(is_processor("cpu0 1 1") && !is_processor("cpu  10") && !is_processor("intr 5"));
        let own = "12 (a b) c) R 1 2 3 4 5 6 7 8 9 10 111 22 0 0 20";
        assert_eq!(own_ticks(own), Some(133));
    }
}
