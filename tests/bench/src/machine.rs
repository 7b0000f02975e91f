//! The machine: which processor is whose, and how much of its time a process has used.
//!
//! One rule: by default everything shares every processor, as on a gateway's own machine; with `PIN=1` what is measured
//! and what measures it never share one, where there is more than one.
//! It does not know which programs run.

use std::fmt;
use std::fs;
use std::process::{Command, Stdio};

/// The processors, and who gets which.
#[derive(Debug)]
pub struct Machine {
    /// The processor's name as the kernel has it.
    pub model: String,
    /// The processors this process may use.
    pub processors: Vec<u32>,
}

impl Machine {
    /// Looks at this machine, and whether processes can be bound to processors here.
    pub fn find() -> Result<Machine, String> {
        let own = read("/proc/self/status")?;
        let allowed = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
        let information = read("/proc/cpuinfo")?;
        let model = information.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        Ok(Machine {
            model: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            processors: list(allowed.trim()).ok_or_else(|| format!("{allowed:?} is not a list of processors."))?,
        })
    }

    /// A command on the processors of those who measure.
    pub fn measuring(&self, program: &str) -> Command {
        let mut command = Command::new(if is_pinned() { "taskset" } else { program });
        if is_pinned() {
            command.args(["--cpu-list", &self.others(), program]);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Gives a running process, all its threads and those to come, the processor of what is measured.
    pub fn bind(&self, process: u32) -> Result<(), String> {
        bind(process, &self.first())
    }

    /// Gives it the processors of those who measure.
    pub fn keep_off(&self, process: u32) -> Result<(), String> {
        bind(process, &self.others())
    }

    /// How many processes wanted to run of late: the kernel's averages over 1, 5 and 15 minutes.
    pub fn load() -> String {
        read("/proc/loadavg").map(|text| text.split(' ').take(3).collect::<Vec<_>>().join(" ")).unwrap_or_default()
    }

    fn first(&self) -> String {
        self.processors.first().map(u32::to_string).unwrap_or_default()
    }

    fn others(&self) -> String {
        match self.processors.get(1..) {
            None | Some([]) => self.first(),
            Some(others) => others.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, first, others) = (&self.model, self.first(), self.others());
        if !is_pinned() {
            let workers = workers();
            return write!(
                f,
                "{model}: Envoy with {workers} workers, wrk, nginx and stores share all processors; load average {}.",
                Machine::load()
            );
        }
        write!(f, "{model}: Envoy with one worker on processor {first}, wrk, nginx and stores on {others}")?;
        if self.processors.len() < 2 {
            write!(f, " (the only one, so requests/s mean little here)")?;
        }
        write!(f, "; load average {}.", Machine::load())
    }
}

/// Whether Envoy gets a processor to itself: `PIN=1`.
pub fn is_pinned() -> bool {
    std::env::var("PIN").is_ok_and(|value| value == "1")
}

/// How many workers Envoy runs with: one a processor, as it does by itself, or one on the processor it is bound to.
pub fn workers() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    if is_pinned() { 1 } else { processors }
}

/// Microseconds of processor time that a process has used, in user space and in the kernel.
pub fn cpu_us(process: u32) -> Result<u64, String> {
    let text = read(&format!("/proc/{process}/stat"))?;
    let ticks = ticks(&text).ok_or_else(|| format!("/proc/{process}/stat has another form than expected: {text}"))?;
    Ok(ticks * TICK_US)
}

/// `utime` and `stime`, fields 14 and 15; the name, field 2, may hold spaces and brackets of its own.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn bind(process: u32, processors: &str) -> Result<(), String> {
    if !is_pinned() {
        return Ok(());
    }
    let status = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", processors, &process.to_string()])
        .stdout(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("taskset cannot bind process {process} to a processor ({status}).")),
        Err(error) => Err(format!("taskset cannot be started: {error}.")),
    }
}

/// The kernel's list format: `0-3,8`.
fn list(text: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        all.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(all)
}

fn read(file: &str) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{file} cannot be read: {error}."))
}

/// `USER_HZ` is 100 on every architecture that Envoy is built for.
const TICK_US: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_process_is_called() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 900 0 0 0 250 42 0 0 20 0 9 0 100";
        assert_eq!(ticks(stat), Some(292));
        assert_eq!(ticks("7"), None);
    }

    #[test]
    fn a_list_of_processors_is_read() {
        assert_eq!(list("0-2,8"), Some(vec![0, 1, 2, 8]));
        assert_eq!(list("5"), Some(vec![5]));
        assert_eq!(list(""), None);
    }
}
