//! A service with a stock and no lock of its own: it reads how much there is, works for a while, and writes one less.
//!
//! One rule: what its callers do at once it does at once; and of the fences that it was shown it remembers the largest,
//! and writes nothing under a smaller one.
//! It does not know of Envoy, nor of the filter.
//!
//! `POST /stock/<article>` takes one: `201` and `x-left`, `409` where none is left, `412` where a larger fence was shown before it
//! could write. `x-test-hold: name` keeps it at work until the test calls [`Stock::open`] with the name.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::wait::PATIENCE;

/// A running service; it ends with the test's process.
#[derive(Clone, Debug)]
pub struct Stock {
    addr: SocketAddr,
    house: Arc<House>,
}

/// One request that was carried out, or refused.
#[derive(Clone, Debug)]
pub struct Taking {
    /// Which article.
    pub article: String,
    /// From which connection, and so from which worker, it came.
    pub connection: SocketAddr,
    /// `Idempotency-Fence`.
    pub fence: Option<u64>,
    /// `Idempotency-Attempt`.
    pub attempt: Option<u64>,
    /// The status of its answer.
    pub status: u16,
    /// How many of the same article were at work when it began, itself included.
    pub at_once: usize,
}

#[derive(Debug)]
struct House {
    inside: Mutex<Inside>,
    changed: Condvar,
    work: Duration,
}

#[derive(Debug, Default)]
struct Inside {
    left: HashMap<String, u64>,
    fences: HashMap<String, u64>,
    at_work: HashMap<String, usize>,
    held: usize,
    open: HashSet<String>,
    takings: Vec<Taking>,
}

impl Stock {
    /// Starts it on a free port, with so many of every article, each taking so long.
    pub fn start(of_each: u64, work: Duration) -> Stock {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let house = Arc::new(House { inside: Mutex::default(), changed: Condvar::new(), work });
        let served = Arc::clone(&house);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let house = Arc::clone(&served);
                // An error is a peer that went away.
                thread::spawn(move || drop(house.serve(&stream, of_each)));
            }
        });
        Stock { addr, house }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What was taken of one article, in the order in which it was.
    pub fn takings(&self, article: &str) -> Vec<Taking> {
        self.house.inside().takings.iter().filter(|taking| taking.article == article).cloned().collect()
    }

    /// How much of an article was written down last.
    pub fn left(&self, article: &str) -> Option<u64> {
        self.house.inside().left.get(article).copied()
    }

    /// Returns when so many are held at work.
    #[track_caller]
    pub fn wait_for_held(&self, n: usize) {
        self.house.wait(&format!("{n} are held at work"), |inside| inside.held >= n);
    }

    /// Returns when so many of an article were taken or refused.
    #[track_caller]
    pub fn wait_for(&self, article: &str, n: usize) {
        let taken = |inside: &Inside| inside.takings.iter().filter(|taking| taking.article == article).count();
        self.house.wait(&format!("{n} of {article} were taken"), |inside| taken(inside) >= n);
    }

    /// Lets go of what `x-test-hold: name` keeps at work, now and from now on.
    pub fn open(&self, name: &str) {
        self.house.inside().open.insert(name.to_owned());
        self.house.changed.notify_all();
    }
}

impl House {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn wait(&self, what: &str, enough: impl Fn(&Inside) -> bool) {
        let waited = self.changed.wait_timeout_while(self.inside(), PATIENCE, |inside| !enough(inside));
        let outcome = waited.unwrap_or_else(PoisonError::into_inner).1;
        assert!(!outcome.timed_out(), "Waited {PATIENCE:?} in vain until {what}.");
    }

    fn serve(&self, stream: &TcpStream, of_each: u64) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let connection = stream.peer_addr()?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let article =
                line.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
            let mut fields = HashMap::new();
            loop {
                line.clear();
                reader.read_line(&mut line)?;
                let Some((name, value)) = line.trim_end().split_once(": ") else { break };
                fields.insert(name.to_ascii_lowercase(), value.to_owned());
            }
            let length = fields.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            reader.read_exact(&mut vec![0; length])?;
            let (status, left) = self.take(article, connection, &fields, of_each);
            write!(&*stream, "HTTP/1.1 {status} Said\r\nx-left: {left}\r\ncontent-length: 2\r\n\r\n{{}}")?;
        }
    }

    /// Reads, works, writes; nothing keeps another from doing so at once.
    fn take(
        &self,
        article: String,
        connection: SocketAddr,
        fields: &HashMap<String, String>,
        of_each: u64,
    ) -> (u16, u64) {
        let number = |name: &str| fields.get(name).and_then(|text| text.parse().ok());
        let (fence, attempt) = (number("idempotency-fence"), number("idempotency-attempt"));
        let (read, at_once) = {
            let mut inside = self.inside();
            let at_work = inside.at_work.entry(article.clone()).or_default();
            *at_work += 1;
            let at_once = *at_work;
            (*inside.left.entry(article.clone()).or_insert(of_each), at_once)
        };
        thread::sleep(self.work);
        if let Some(name) = fields.get("x-test-hold") {
            self.inside().held += 1;
            self.changed.notify_all();
            let closed = |inside: &mut Inside| !inside.open.contains(name);
            drop(self.changed.wait_while(self.inside(), closed));
            self.inside().held -= 1;
        }
        let mut inside = self.inside();
        let largest = inside.fences.get(&article).copied().unwrap_or(0);
        let status = match read.checked_sub(1) {
            _ if fence.is_some_and(|fence| fence < largest) => 412,
            None => 409,
            Some(left) => {
                inside.left.insert(article.clone(), left);
                201
            }
        };
        inside.fences.insert(article.clone(), largest.max(fence.unwrap_or(0)));
        inside.at_work.entry(article.clone()).and_modify(|at_work| *at_work -= 1);
        inside.takings.push(Taking { article, connection, fence, attempt, status, at_once });
        drop(inside);
        self.changed.notify_all();
        (status, read.saturating_sub(1))
    }
}
