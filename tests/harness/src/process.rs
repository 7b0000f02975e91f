//! A child process that ends with its guard.
//!
//! One rule: a process is ended by its own id and by nothing else, also when a test panics, and also when this
//! process is killed before it can do anything (the kernel then ends the child).
//! It does not know which program it runs.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, mpsc};
use std::thread;

use crate::wait::{PATIENCE, wait_for};

/// A running program, its output in a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts the command with its standard output and error appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> io::Result<Process> {
        let output = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A Ctrl-C in the terminal reaches us alone; we then end the child in good order.
        command.process_group(0);
        let parent = std::process::id();
        // SAFETY: prctl, getppid and _exit are async-signal-safe, and nothing here allocates.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have died before the request to be told of it.
                if libc::getppid().unsigned_abs() != parent {
                    libc::_exit(1);
                }
                Ok(())
            });
        }
        let child = spawn_for_life(command)?;
        Ok(Process { name: name.to_owned(), child: Mutex::new(child), log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child().id()
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().expect("a child of ours can be waited for")
    }

    /// Everything it has written so far, also what an earlier process wrote to the same file.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Ends it with SIGKILL, as a crash would, and returns when it is gone.
    pub fn kill(&self) {
        let mut child = self.child();
        // An error means that it has ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Asks it with SIGTERM to end and returns how it did; a process that takes no notice is killed.
    pub fn terminate(&self) -> ExitStatus {
        if let Some(status) = self.ended() {
            return status;
        }
        self.signal(libc::SIGTERM);
        wait_for(&format!("{} ends after SIGTERM", self.name), PATIENCE, || self.ended()).unwrap_or_else(|_| {
            self.kill();
            ExitStatus::from_raw(libc::SIGKILL)
        })
    }

    /// Stops it in its tracks with SIGSTOP: its connections stay, and nothing of it moves.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on with SIGCONT.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        if self.ended().is_none() {
            let id = i32::try_from(self.id()).expect("a process id fits in a pid_t");
            // SAFETY: kill has no memory effects, and the child has not been reaped, so the id is still its own.
            unsafe { libc::kill(id, signal) };
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the end of the log of {} ---\n{}\n---", self.name, tail(&self.log()));
        }
    }
}

/// The last lines of a log, as many as a person wants to read.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Starts the command from a thread that lives as long as this process.
///
/// The kernel sends the parent's death signal when the *thread* that started the child ends, and a test's thread
/// ends before a gateway that several tests share.
fn spawn_for_life(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, incoming) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in incoming {
                // Nobody listens any more only if the caller's thread has gone; the child then ends unseen.
                if let Err(mpsc::SendError(Ok(mut child))) = answer.send(command.spawn()) {
                    let _ = child.kill();
                }
            }
        });
        orders
    });
    let (answer, result) = mpsc::channel();
    spawner.send((command, answer)).expect("the spawning thread never ends");
    result.recv().expect("the spawning thread answers every order")
}

const TAIL_LINES: usize = 60;
